//! One small number for each row of a block; absent is the default value, zero.
//!
//! A column that few rows have is kept as pairs, sorted by row; from an eighth on it is a plain array, where reading all
//! costs less than finding some.

use super::mask::ROWS;

const SPARSE_MAX: usize = ROWS / 8;

#[derive(Debug, Clone)]
pub enum Column<T> {
    Sparse { rows: Vec<u16>, values: Vec<T> },
    Dense(Box<[T; ROWS]>),
}

impl<T: Copy + Default + PartialEq> Default for Column<T> {
    fn default() -> Self {
        Self::Sparse { rows: Vec::new(), values: Vec::new() }
    }
}

impl<T: Copy + Default + PartialEq> Column<T> {
    pub fn dense() -> Self {
        Self::Dense(zeroed())
    }

    pub fn get(&self, row: u16) -> T {
        match self {
            Self::Dense(values) => values[usize::from(row)],
            Self::Sparse { rows, values } => rows.binary_search(&row).map_or(T::default(), |at| values[at]),
        }
    }

    pub fn set(&mut self, row: u16, value: T) {
        match self {
            Self::Dense(values) => values[usize::from(row)] = value,
            Self::Sparse { rows, values } => {
                let empty = value == T::default();
                match rows
                    .last()
                    .map_or(Err(0), |&last| if last < row { Err(rows.len()) } else { rows.binary_search(&row) })
                {
                    Ok(at) if empty => {
                        rows.remove(at);
                        values.remove(at);
                    }
                    Ok(at) => values[at] = value,
                    Err(_) if empty => {}
                    Err(at) if rows.len() < SPARSE_MAX => {
                        rows.insert(at, row);
                        values.insert(at, value);
                    }
                    Err(_) => {
                        let mut dense = zeroed();
                        for (&row, &value) in rows.iter().zip(values.iter()) {
                            dense[usize::from(row)] = value;
                        }
                        dense[usize::from(row)] = value;
                        *self = Self::Dense(dense);
                    }
                }
            }
        }
    }

    /// The rows that have a value, ascending.
    pub fn each(&self, mut each: impl FnMut(u16, T)) {
        match self {
            Self::Sparse { rows, values } => rows.iter().zip(values).for_each(|(&row, &value)| each(row, value)),
            Self::Dense(values) => {
                for (row, &value) in values.iter().enumerate() {
                    if value != T::default() {
                        each(row as u16, value);
                    }
                }
            }
        }
    }

    pub fn shrink(&mut self) {
        if let Self::Sparse { rows, values } = self {
            rows.shrink_to_fit();
            values.shrink_to_fit();
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Sparse { rows, values } => rows.capacity() * 2 + values.capacity() * size_of::<T>(),
            Self::Dense(_) => ROWS * size_of::<T>(),
        }
    }
}

#[expect(clippy::unnecessary_box_returns, reason = "a quarter of a megabyte is not to pass over the stack")]
fn zeroed<T: Copy + Default>() -> Box<[T; ROWS]> {
    vec![T::default(); ROWS].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("it has this length"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn is_a_map(sets in proptest::collection::vec((any::<u16>(), 0_u32..3), 0..12_000)) {
            let mut column = Column::default();
            let mut model = BTreeMap::new();
            for (row, value) in sets {
                column.set(row, value);
                if value == 0 { model.remove(&row); } else { model.insert(row, value); }
                prop_assert_eq!(column.get(row), value);
            }
            let mut found = Vec::new();
            column.each(|row, value| found.push((row, value)));
            prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
        }
    }
}
