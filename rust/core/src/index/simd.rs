//! The loops over a block's values: one that any processor runs, compiled once more for wider registers, and one written
//! for AVX-512, chosen when the program runs.
//!
//! What is unsafe is small: a function compiled for a feature may only run where the feature is, and a register is
//! loaded through a pointer.

#![allow(unsafe_code)]
#![expect(clippy::inline_always, reason = "a loop is compiled for wider registers only where it is inlined")]
#![expect(clippy::needless_bitwise_bool, reason = "a lazy operator would be a branch for each value")]

use super::mask::{ROWS, WORDS};

type Words = [u64; WORDS];

/// Eight bytes of 0 or 1 to eight bits: the product moves byte i to bit 56 + i.
#[inline(always)]
fn pack(bytes: &[u8; 64]) -> u64 {
    let mut word = 0;
    for (i, eight) in bytes.chunks_exact(8).enumerate() {
        let eight =
            u64::from_le_bytes([eight[0], eight[1], eight[2], eight[3], eight[4], eight[5], eight[6], eight[7]]);
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

/// One comparison of a column's values; what is absent is the default value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<T> {
    Equal(T),
    /// Any of the four, which may be the same.
    Among([T; 4]),
    AtLeast(T),
}

impl<T: Copy + PartialEq + PartialOrd> Ask<T> {
    pub fn holds(self, value: T) -> bool {
        match self {
            Self::Equal(wanted) => value == wanted,
            Self::Among(wanted) => wanted.contains(&value),
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// The comparison is chosen outside the loop.
#[inline(always)]
fn plain<T: Copy + PartialEq + PartialOrd>(values: &[T; ROWS], ask: Ask<T>, within: &Words, out: &mut Words) {
    match ask {
        Ask::Equal(wanted) => scan(values, within, out, |value| value == wanted),
        Ask::Among([a, b, c, d]) => {
            scan(values, within, out, |value| (value == a) | (value == b) | (value == c) | (value == d));
        }
        Ask::AtLeast(least) => scan(values, within, out, |value| value >= least),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
fn plain_avx2<T: Copy + PartialEq + PartialOrd>(values: &[T; ROWS], ask: Ask<T>, within: &Words, out: &mut Words) {
    plain(values, ask, within, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512vpopcntdq,avx512f,popcnt")]
fn count_avx512(words: &Words) -> usize {
    count_words(words)
}

/// A type that columns are made of.
pub trait Scan: Copy + Default + PartialEq + PartialOrd {
    /// out = the rows of `within` whose value holds.
    fn ask(values: &[Self; ROWS], ask: Ask<Self>, within: &Words, out: &mut Words);
}

/// With AVX-512 a comparison gives its bits in one instruction, which no compiler makes of the loop above.
macro_rules! scan {
    ($type:ident, $set:ident, $equal:ident, $least:ident, $signed:ty) => {
        impl Scan for $type {
            fn ask(values: &[Self; ROWS], ask: Ask<Self>, within: &Words, out: &mut Words) {
                #[cfg(target_arch = "x86_64")]
                {
                    use std::arch::x86_64::{_mm512_loadu_si512, $equal, $least, $set};

                    #[inline]
                    #[target_feature(enable = "avx512f,avx512bw")]
                    fn scan(values: &[$type; ROWS], within: &Words, out: &mut Words, ask: Ask<$type>) {
                        const LANES: usize = 64 / size_of::<$type>();
                        let [a, b, c, d] = match ask {
                            Ask::Equal(one) | Ask::AtLeast(one) => [one; 4],
                            Ask::Among(four) => four,
                        };
                        let (a, b) = ($set(a as $signed), $set(b as $signed));
                        let (c, d) = ($set(c as $signed), $set(d as $signed));
                        for ((chunk, &within), out) in values.chunks_exact(64).zip(within).zip(out) {
                            let mut word = 0_u64;
                            for (i, lanes) in chunk.chunks_exact(LANES).enumerate() {
                                // SAFETY: the chunk has exactly the 64 bytes that are read, at any alignment.
                                let found = unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) };
                                let bits = match ask {
                                    Ask::Equal(_) => $equal(found, a),
                                    Ask::AtLeast(_) => $least(found, a),
                                    Ask::Among(_) => {
                                        $equal(found, a) | $equal(found, b) | $equal(found, c) | $equal(found, d)
                                    }
                                };
                                word |= u64::from(bits) << (i * LANES);
                            }
                            *out = word & within;
                        }
                    }

                    match level() {
                        // SAFETY: `level` has asked the processor for these features.
                        Level::Avx512 => return unsafe { scan(values, within, out, ask) },
                        // SAFETY: as above.
                        Level::Avx2 => return unsafe { plain_avx2(values, ask, within, out) },
                        Level::Plain => {}
                    }
                }
                plain(values, ask, within, out);
            }
        }
    };
}

scan!(u8, _mm512_set1_epi8, _mm512_cmpeq_epu8_mask, _mm512_cmpge_epu8_mask, i8);
scan!(u16, _mm512_set1_epi16, _mm512_cmpeq_epu16_mask, _mm512_cmpge_epu16_mask, i16);
scan!(u32, _mm512_set1_epi32, _mm512_cmpeq_epu32_mask, _mm512_cmpge_epu32_mask, i32);

pub fn count(words: &Words) -> usize {
    #[cfg(target_arch = "x86_64")]
    if matches!(level(), Level::Avx512) && std::arch::is_x86_feature_detected!("avx512vpopcntdq") {
        // SAFETY: the features have been asked for.
        return unsafe { count_avx512(words) };
    }
    count_words(words)
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
enum Level {
    Plain,
    Avx2,
    Avx512,
}

/// Asked once by the standard library, then a load and a test.
#[cfg(target_arch = "x86_64")]
fn level() -> Level {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = has!("avx2") && has!("bmi1") && has!("bmi2") && has!("popcnt") && has!("lzcnt");
    if avx2 && has!("avx512f") && has!("avx512bw") {
        Level::Avx512
    } else if avx2 {
        Level::Avx2
    } else {
        Level::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<T: Scan + std::fmt::Debug>(values: &[T; ROWS], asks: &[Ask<T>], within: &Words) {
        for &ask in asks {
            let mut expected: Words = [0; WORDS];
            for (row, &value) in values.iter().enumerate() {
                expected[row / 64] |= u64::from(ask.holds(value)) << (row % 64) & within[row / 64];
            }
            let mut out: Words = [1; WORDS];
            T::ask(values, ask, within, &mut out);
            assert_eq!(out, expected, "{ask:?}");
            plain(values, ask, within, &mut out);
            assert_eq!(out, expected, "{ask:?}, without wider registers");
            assert_eq!(count(&out), expected.iter().map(|word| word.count_ones() as usize).sum::<usize>());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn every_loop_does_the_same(seed in any::<u64>(), few in 1_u32..300) {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u32
            };
            let mut within: Words = [0; WORDS];
            for word in &mut within {
                *word = u64::from(next()) << 32 | u64::from(next());
            }
            let words: Vec<u32> = (0..ROWS).map(|_| if next() % 2 == 0 { next() % few } else { next() << 1 }).collect();
            let edge = [0, 1, 127, 128, 255];
            let bytes: Vec<u8> = words.iter().map(|&word| word as u8).collect();
            let asks: Vec<Ask<u8>> = edge.iter().flat_map(|&n| [Ask::Equal(n), Ask::AtLeast(n), Ask::Among([n, 3, 9, 200])]).collect();
            check(&bytes.try_into().unwrap(), &asks, &within);
            let edge = [0, 1, 0x7FFF, 0x8000, 0xFFFF, 200];
            let halves: Vec<u16> = words.iter().map(|&word| word as u16).collect();
            let asks: Vec<Ask<u16>> = edge.iter().flat_map(|&n| [Ask::Equal(n), Ask::AtLeast(n), Ask::Among([n, 3, 9, 200])]).collect();
            check(&halves.try_into().unwrap(), &asks, &within);
            let edge = [0, 1, 0x7FFF_FFFF, 0x8000_0000, u32::MAX, 200];
            let asks: Vec<Ask<u32>> = edge.iter().flat_map(|&n| [Ask::Equal(n), Ask::AtLeast(n), Ask::Among([n, 3, 9, 200])]).collect();
            check(&words.try_into().unwrap(), &asks, &within);
        }
    }
}
