//! Bits of one block of rows, and the loops that find them.
//!
//! A block has 65,536 rows: a mask is 8 KiB and a column of it 64 to 256 KiB, so that a whole rule over one block stays
//! in the second-level cache. The loops over columns are in [`super::simd`].

use super::column::Column;
use super::simd::{self, Scan};

pub use super::simd::Ask;

pub const ROWS: usize = 1 << 16;
pub const WORDS: usize = ROWS / 64;

/// With fewer rows left than this for each byte of a value it is cheaper to look at each of them than to read the column.
const FEW: usize = ROWS / 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(Box<[u64; WORDS]>);

impl Mask {
    pub fn none() -> Self {
        Self(Box::new([0; WORDS]))
    }

    pub fn words(&self) -> &[u64; WORDS] {
        &self.0
    }

    pub fn words_mut(&mut self) -> &mut [u64; WORDS] {
        &mut self.0
    }

    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    pub fn get(&self, row: u16) -> bool {
        self.0[usize::from(row) / 64] >> (row % 64) & 1 == 1
    }

    pub fn set(&mut self, row: u16, value: bool) {
        let word = &mut self.0[usize::from(row) / 64];
        *word = *word & !(1 << (row % 64)) | u64::from(value) << (row % 64);
    }

    pub fn count(&self) -> usize {
        simd::count(&self.0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    pub fn and(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(a, b)| *a &= b);
    }

    pub fn or(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(a, b)| *a |= b);
    }

    pub fn without(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(a, b)| *a &= !b);
    }

    /// `within` without `self`.
    pub fn complement(&mut self, within: &Self) {
        self.0.iter_mut().zip(within.0.iter()).for_each(|(a, b)| *a = b & !*a);
    }

    pub fn copy(&mut self, other: &Self) {
        self.0.copy_from_slice(&*other.0);
    }

    /// The rows that are set, ascending.
    pub fn rows(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().enumerate().flat_map(|(i, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros() as usize;
                    rest &= rest - 1;
                    (i * 64 + bit) as u16
                })
            })
        })
    }

    /// Keeps of `within` the rows for which `hold` is true.
    pub fn keep(&mut self, within: &Self, hold: impl Fn(u16) -> bool) {
        for (i, (out, &word)) in self.0.iter_mut().zip(within.0.iter()).enumerate() {
            let (mut rest, mut found) = (word, 0);
            while rest != 0 {
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                found |= u64::from(hold((i * 64) as u16 + bit as u16)) << bit;
            }
            *out = found;
        }
    }
}

/// out = the rows of `within` whose value holds.
pub fn ask<T: Scan>(column: &Column<T>, ask: Ask<T>, within: &Mask, out: &mut Mask) {
    match column {
        Column::Sparse { rows, values } => {
            if ask.holds(T::default()) {
                out.copy(within);
            } else {
                out.clear();
            }
            for (&row, &value) in rows.iter().zip(values) {
                out.set(row, ask.holds(value) && within.get(row));
            }
        }
        Column::Dense(values) if within.count() <= FEW * size_of::<T>() => {
            out.keep(within, |row| ask.holds(values[usize::from(row)]));
        }
        Column::Dense(values) => T::ask(values, ask, within.words(), out.words_mut()),
    }
}

/// The same with a table: the truth of each code. A code beyond it holds for nobody.
pub fn look_up<T: Scan + Into<u16>>(column: &Column<T>, table: &[bool], within: &Mask, out: &mut Mask) {
    let holds = |value: T| table.get(usize::from(value.into())).copied().unwrap_or(false);
    match column {
        Column::Sparse { rows, values } => {
            if holds(T::default()) {
                out.copy(within);
            } else {
                out.clear();
            }
            for (&row, &value) in rows.iter().zip(values) {
                out.set(row, holds(value) && within.get(row));
            }
        }
        Column::Dense(values) => out.keep(within, |row| holds(values[usize::from(row)])),
    }
}
