//! Traits as dictionary-coded columns: each row holds the number of its value's JSON, 0 for none.
//!
//! A test is evaluated once for each value of the dictionary and becomes a table from code to truth. Codes are a byte
//! while that suffices, for each block on its own. A column that has too many values to be worth it keeps only who has
//! one: `exists` and `not_set` are still answered here, everything else is not here any more. Values that nobody has any
//! longer keep their codes until the next cold start.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;

use super::column::Column;
use super::mask::Mask;
use super::names::place;

/// As many values as two bytes tell apart, without the zero.
pub const VALUES_MAX: usize = u16::MAX as usize;
/// A column of long values is no dictionary either.
const DICTIONARY_BYTES_MAX: usize = 8 << 20;
/// A project whose traits have more names than this has made names of values; the first ones are kept.
pub const COLUMNS_MAX: usize = 512;

#[derive(Debug, Clone, Default)]
pub struct Dictionary {
    values: Vec<Box<str>>,
    codes: HashTable<u16>,
    hasher: RandomState,
    bytes: usize,
}

impl Dictionary {
    pub fn values(&self) -> &[Box<str>] {
        &self.values
    }

    pub fn value(&self, code: u16) -> Option<&str> {
        usize::from(code).checked_sub(1).and_then(|at| self.values.get(at)).map(|value| &**value)
    }

    fn code(&self, value: &str) -> Option<u16> {
        self.codes.find(self.hasher.hash_one(value), |&code| self.value(code) == Some(value)).copied()
    }

    /// None when it is full.
    pub fn add(&mut self, value: &str) -> Option<u16> {
        if self.values.len() >= VALUES_MAX || self.bytes + value.len() > DICTIONARY_BYTES_MAX {
            return None;
        }
        self.bytes += value.len();
        self.values.push(value.into());
        let code = self.values.len() as u16;
        let Self { values, codes, hasher, .. } = self;
        codes.insert_unique(hasher.hash_one(value), code, |&code| hasher.hash_one(&*values[usize::from(code) - 1]));
        Some(code)
    }

    fn bytes(&self) -> usize {
        self.bytes + self.values.capacity() * size_of::<Box<str>>() + self.codes.allocation_size()
    }
}

/// The codes of one block.
#[derive(Debug, Clone)]
pub enum Codes {
    Narrow(Column<u8>),
    Wide(Column<u16>),
    /// Who has a value, and no more.
    Present(Mask),
}

impl Default for Codes {
    fn default() -> Self {
        Self::Narrow(Column::default())
    }
}

impl Codes {
    /// The code; 1 for any value of a column that was dropped.
    pub fn get(&self, row: u16) -> u16 {
        match self {
            Self::Narrow(column) => column.get(row).into(),
            Self::Wide(column) => column.get(row),
            Self::Present(mask) => mask.get(row).into(),
        }
    }

    fn set(&mut self, row: u16, code: u16) {
        match self {
            Self::Narrow(column) => {
                if let Ok(code) = u8::try_from(code) {
                    column.set(row, code);
                } else {
                    let mut wide = if matches!(column, Column::Dense(_)) { Column::dense() } else { Column::default() };
                    column.each(|row, code| wide.set(row, code.into()));
                    wide.set(row, code);
                    *self = Self::Wide(wide);
                }
            }
            Self::Wide(column) => column.set(row, code),
            Self::Present(mask) => mask.set(row, code != 0),
        }
    }

    fn each(&self, mut each: impl FnMut(u16)) {
        match self {
            Self::Narrow(column) => column.each(|row, _| each(row)),
            Self::Wide(column) => column.each(|row, _| each(row)),
            Self::Present(mask) => mask.rows().for_each(each),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Narrow(column) => column.bytes(),
            Self::Wide(column) => column.bytes(),
            Self::Present(_) => size_of::<[u64; super::mask::WORDS]>(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct TraitColumn {
    /// None: dropped.
    pub dictionary: Option<Arc<Dictionary>>,
    pub blocks: Vec<Option<Arc<Codes>>>,
}

impl Default for TraitColumn {
    fn default() -> Self {
        Self { dictionary: Some(Arc::default()), blocks: Vec::new() }
    }
}

impl TraitColumn {
    #[cfg(test)]
    fn code(&self, row: u32) -> u16 {
        let (block, row) = place(row);
        self.blocks.get(block).and_then(Option::as_ref).map_or(0, |codes| codes.get(row))
    }

    /// None removes the value.
    pub fn set(&mut self, row: u32, value: Option<&str>) {
        let code = match (value, &mut self.dictionary) {
            (None, _) => 0,
            (Some(_), None) => 1,
            (Some(value), Some(dictionary)) => match dictionary.code(value) {
                Some(code) => code,
                None => Arc::make_mut(dictionary).add(value).unwrap_or_else(|| {
                    self.drop_values();
                    1
                }),
            },
        };
        let (block, row) = place(row);
        if self.blocks.len() <= block {
            if code == 0 {
                return;
            }
            self.blocks.resize(block + 1, None);
        }
        let dropped = self.dictionary.is_none();
        let codes = &mut self.blocks[block];
        match codes {
            // What would not change is not copied.
            Some(codes) if codes.get(row) == code => {}
            None if code == 0 => {}
            _ => {
                let fresh = || Arc::new(if dropped { Codes::Present(Mask::none()) } else { Codes::default() });
                Arc::make_mut(codes.get_or_insert_with(fresh)).set(row, code);
            }
        }
    }

    fn drop_values(&mut self) {
        self.dictionary = None;
        for codes in self.blocks.iter_mut().flatten() {
            let mut mask = Mask::none();
            codes.each(|row| mask.set(row, true));
            *codes = Arc::new(Codes::Present(mask));
        }
    }

    pub fn bytes(&self) -> usize {
        let blocks: usize = self.blocks.iter().flatten().map(|codes| codes.bytes()).sum();
        blocks + self.blocks.capacity() * size_of::<usize>() + self.dictionary.as_ref().map_or(0, |it| it.bytes())
    }
}

/// All traits of a project.
#[derive(Debug, Clone, Default)]
pub struct Traits {
    pub columns: HashMap<String, TraitColumn>,
    /// There were more names than columns: a name that is not here may exist.
    pub overflowed: bool,
}

impl Traits {
    pub fn set(&mut self, row: u32, name: &str, value: Option<&str>) {
        if let Some(column) = self.columns.get_mut(name) {
            column.set(row, value);
        } else if value.is_some() {
            if self.columns.len() < COLUMNS_MAX {
                self.columns.entry(name.to_owned()).or_default().set(row, value);
            } else {
                self.overflowed = true;
            }
        }
    }

    pub fn clear(&mut self, row: u32) {
        for column in self.columns.values_mut() {
            column.set(row, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_widens_and_is_dropped() {
        let mut column = TraitColumn::default();
        for row in 0..70_000_u32 {
            column.set(row, Some(&row.to_string()));
            if row == 300 {
                assert!(matches!(column.blocks[0].as_deref(), Some(Codes::Wide(_))));
                assert_eq!(column.dictionary.as_ref().unwrap().value(column.code(7)), Some("7"));
            }
        }
        assert!(column.dictionary.is_none());
        column.set(3, None);
        assert_eq!((column.code(3), column.code(4), column.code(69_999), column.code(70_000)), (0, 1, 1, 0));
    }
}
