//! The loops over a block's values, compiled once for the processor that every build must run on and once more for
//! wider registers, chosen when the program runs.
//!
//! Safe code throughout but for the two calls: a function compiled for a feature may only run where the feature is.

#![allow(unsafe_code)]

use super::mask::{ROWS, WORDS};

type Words = [u64; WORDS];

/// Eight bytes of 0 or 1 to eight bits: the product moves byte i to bit 56 + i.
#[inline(always)]
fn pack(bytes: &[u8; 64]) -> u64 {
    let mut word = 0;
    for (i, eight) in bytes.chunks_exact(8).enumerate() {
        let eight = u64::from_le_bytes([eight[0], eight[1], eight[2], eight[3], eight[4], eight[5], eight[6], eight[7]]);
        word |= (eight.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i);
    }
    word
}

#[inline(always)]
fn scan<T: Copy>(values: &[T], within: &Words, out: &mut Words, hold: impl Fn(T) -> bool) {
    for ((chunk, &within), out) in values.chunks_exact(64).zip(within).zip(out) {
        let mut bytes = [0_u8; 64];
        for (byte, &value) in bytes.iter_mut().zip(chunk) {
            *byte = u8::from(hold(value));
        }
        *out = pack(&bytes) & within;
    }
}

#[inline(always)]
fn count_words(words: &Words) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

macro_rules! wider {
    ($name:ident, $plain:ident, ($($argument:ident: $type:ty),*) $(-> $result:ty)?, [$($generic:ident)?]) => {
        fn $name$(<$generic: Copy + PartialEq + PartialOrd>)?($($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
                fn avx2$(<$generic: Copy + PartialEq + PartialOrd>)?($($argument: $type),*) $(-> $result)? {
                    $plain($($argument),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,bmi1,bmi2,popcnt,lzcnt")]
                fn avx512$(<$generic: Copy + PartialEq + PartialOrd>)?($($argument: $type),*) $(-> $result)? {
                    $plain($($argument),*)
                }
                match level() {
                    // SAFETY: `level` has asked the processor for exactly these features.
                    Level::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    Level::Avx2 => return unsafe { avx2($($argument),*) },
                    Level::Plain => {}
                }
            }
            $plain($($argument),*)
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
enum Level {
    Plain,
    Avx2,
    Avx512,
}

#[cfg(target_arch = "x86_64")]
fn level() -> Level {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = has!("avx2") && has!("bmi1") && has!("bmi2") && has!("popcnt") && has!("lzcnt");
    if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq") {
        Level::Avx512
    } else if avx2 {
        Level::Avx2
    } else {
        Level::Plain
    }
}

#[inline(always)]
fn plain_equal<T: Copy + PartialEq>(values: &[T; ROWS], wanted: T, within: &Words, out: &mut Words) {
    scan(values, within, out, |value| value == wanted);
}

#[inline(always)]
fn plain_among<T: Copy + PartialEq>(values: &[T; ROWS], wanted: [T; 4], within: &Words, out: &mut Words) {
    scan(values, within, out, |value| {
        (value == wanted[0]) | (value == wanted[1]) | (value == wanted[2]) | (value == wanted[3])
    });
}

#[inline(always)]
fn plain_at_least<T: Copy + PartialOrd>(values: &[T; ROWS], least: T, within: &Words, out: &mut Words) {
    scan(values, within, out, |value| value >= least);
}

wider!(equal, plain_equal, (values: &[T; ROWS], wanted: T, within: &Words, out: &mut Words), [T]);
wider!(among, plain_among, (values: &[T; ROWS], wanted: [T; 4], within: &Words, out: &mut Words), [T]);
wider!(at_least, plain_at_least, (values: &[T; ROWS], least: T, within: &Words, out: &mut Words), [T]);
wider!(count_ones, count_words, (words: &Words) -> usize, []);

pub fn count(words: &Words) -> usize {
    count_ones(words)
}

/// A type that columns are made of.
pub trait Scan: Copy + Default + PartialEq + PartialOrd {
    /// out = the rows of `within` whose value is this one.
    fn equal(values: &[Self; ROWS], wanted: Self, within: &Words, out: &mut Words) {
        equal(values, wanted, within, out);
    }

    /// Any of the four, which may be the same.
    fn among(values: &[Self; ROWS], wanted: [Self; 4], within: &Words, out: &mut Words) {
        among(values, wanted, within, out);
    }

    fn at_least(values: &[Self; ROWS], least: Self, within: &Words, out: &mut Words) {
        at_least(values, least, within, out);
    }
}

impl Scan for u8 {}
impl Scan for u16 {}
impl Scan for u32 {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packs_in_order(word in any::<u64>()) {
            let mut bytes = [0; 64];
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = (word >> i & 1) as u8;
            }
            prop_assert_eq!(pack(&bytes), word);
        }
    }
}
