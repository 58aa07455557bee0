//! SHA-256 of many messages at once: one message in each lane of a vector, and a lane that ends takes the next message.
//!
//! One message's rounds depend on each other, so a processor waits through most of them; those of sixteen messages do
//! not. The compression is written once over vectors and instantiated for AVX-512 (16 lanes) and AVX2 (8); processors
//! with SHA instructions weave a few streams of those together; anything else takes the `sha2` crate, block by block.
//! Which of them is used is asked of the processor at run time, in the order in which they measured fastest.
//!
//! Nothing is sorted and no lane waits for its neighbours: messages of any lengths keep all lanes busy until the last few.

#![expect(unsafe_code, reason = "vector loads, and the calls into code compiled for features asked of the processor")]
#![allow(clippy::wildcard_imports, reason = "a few dozen vector instructions, by their names")]
#![expect(clippy::many_single_char_names, reason = "FIPS 180-4's variables")]

use std::thread;

/// The eight words between two blocks.
pub type State = [u32; 8];

const BLOCK: usize = 64;
type Block = [u8; BLOCK];

/// FIPS 180-4, 5.3.3: where every message begins.
pub const INITIAL: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// What all messages of a batch begin with: whole blocks hashed once, and the bytes that did not fill one.
#[derive(Clone, Copy)]
pub struct Prefix<'p> {
    state: State,
    hashed: usize,
    rest: &'p [u8],
}

impl<'p> Prefix<'p> {
    pub fn new(bytes: &'p [u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let mut state = INITIAL;
        sha2::block_api::compress256(&mut state, blocks);
        Self { state, hashed: blocks.len() * BLOCK, rest }
    }
}

/// A way of hashing; all of them give the same digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Avx512,
    ShaNi,
    Avx2,
    Portable,
}

impl Engine {
    /// In the order of preference for messages of a block or two, as ids are.
    pub const ALL: [Self; 4] = [Self::Avx512, Self::ShaNi, Self::Avx2, Self::Portable];

    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::ShaNi => "sha-ni",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub fn supported(self) -> bool {
        match self {
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            Self::ShaNi => is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1"),
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            Self::Portable => true,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn supported(self) -> bool {
        self == Self::Portable
    }

    /// The best that this processor has.
    pub fn best() -> Self {
        Self::ALL.into_iter().find(|engine| engine.supported()).unwrap_or(Self::Portable)
    }

    /// The same for messages of several blocks: bringing their bytes into the order of a vector's lanes costs more than
    /// the lanes gain over instructions made for this.
    pub fn best_for_long() -> Self {
        if Self::ShaNi.supported() { Self::ShaNi } else { Self::best() }
    }

    /// Hash prefix || message for each message; `done` gets the message's number and the final words, in no order.
    pub fn digests<'m>(
        self,
        prefix: Prefix<'_>,
        messages: impl IntoIterator<Item = &'m [u8]>,
        done: impl FnMut(usize, State),
    ) {
        assert!(self.supported(), "this processor has no {}", self.name());
        match self {
            // SAFETY (each of the three): the processor has the features, `supported` has asked it.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                run::<16>(prefix, messages, done, |lanes, blocks| unsafe { avx512::compress(lanes, blocks) });
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => run::<8>(prefix, messages, done, |lanes, blocks| unsafe { avx2::compress(lanes, blocks) }),
            #[cfg(target_arch = "x86_64")]
            Self::ShaNi => run::<STREAMS>(prefix, messages, done, |lanes, blocks| unsafe {
                shani::compress(lanes, blocks);
            }),
            _ => run::<1>(prefix, messages, done, |lanes, blocks| {
                let mut state = lanes.map(|word| word[0]);
                sha2::block_api::compress256(&mut state, blocks);
                *lanes = state.map(|word| [word]);
            }),
        }
    }
}

/// A digest as bytes.
pub fn bytes(state: State) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (four, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *four = word.to_be_bytes();
    }
    bytes
}

/// Do `work` on equal shares of the items and of the places for their results, on as many threads as pay.
pub fn spread<I: Sync, O: Send>(items: &[I], out: &mut [O], each_min: usize, work: impl Fn(&[I], &mut [O]) + Sync) {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(items.len() / each_min);
    if threads < 2 {
        work(items, out);
        return;
    }
    let (each, work) = (items.len().div_ceil(threads), &work);
    thread::scope(|scope| {
        for (items, out) in items.chunks(each).zip(out.chunks_mut(each)) {
            scope.spawn(move || work(items, out));
        }
    });
}

/// Word by word, the states of all lanes: word i of lane j is `[i][j]`.
type Lanes<const L: usize> = [[u32; L]; 8];

/// What a lane is at.
#[derive(Clone, Copy)]
struct Job<'m> {
    number: usize,
    body: &'m [u8],
    block: usize,
}

fn run<'m, const L: usize>(
    prefix: Prefix<'_>,
    messages: impl IntoIterator<Item = &'m [u8]>,
    mut done: impl FnMut(usize, State),
    compress: impl Fn(&mut Lanes<L>, &[Block; L]),
) {
    let mut messages = messages.into_iter().enumerate();
    let mut next = || messages.next().map(|(number, body)| Job { number, body, block: 0 });
    let mut lanes: Lanes<L> = prefix.state.map(|word| [word; L]);
    let mut jobs: [Option<Job<'m>>; L] = std::array::from_fn(|_| next());
    let mut blocks = [[0; BLOCK]; L];
    while jobs.iter().any(Option::is_some) {
        let mut ended = [false; L];
        for lane in 0..L {
            if let Some(job) = &mut jobs[lane] {
                ended[lane] = fill(&mut blocks[lane], prefix, job.body, job.block);
                job.block += 1;
            }
        }
        compress(&mut lanes, &blocks);
        for lane in 0..L {
            if let (true, Some(job)) = (ended[lane], jobs[lane]) {
                done(job.number, std::array::from_fn(|word| lanes[word][lane]));
                jobs[lane] = next();
                for (word, begin) in lanes.iter_mut().zip(prefix.state) {
                    word[lane] = begin;
                }
            }
        }
    }
}

/// Write one block of rest || body || padding; true if it is the last.
#[inline]
fn fill(block: &mut Block, prefix: Prefix<'_>, body: &[u8], number: usize) -> bool {
    let begin = number * BLOCK;
    let total = prefix.rest.len() + body.len();
    // Copies of a block's length, known while compiling, are a few instructions; others are calls.
    if begin >= prefix.rest.len() && total >= begin + BLOCK {
        let from = begin - prefix.rest.len();
        *block = *body[from..].first_chunk().unwrap_or(&[0; BLOCK]);
        return false;
    }
    *block = [0; BLOCK];
    let mut at = 0;
    if number == 0 {
        at = prefix.rest.len();
        block[..at].copy_from_slice(prefix.rest);
    }
    if total >= begin + BLOCK {
        block[at..].copy_from_slice(&body[..BLOCK - at]);
        return false;
    }
    // The message ends here or has ended: the rest of it, a one bit, zeros, and its length in bits if there is room.
    let from = (begin + at - prefix.rest.len()).min(body.len());
    let left = &body[from..];
    block[at..at + left.len()].copy_from_slice(left);
    at += left.len();
    if total >= begin {
        block[at] = 0x80;
    }
    // One bit and eight bytes of length have room below this; a block that only has the length is the last too.
    let last = at < BLOCK - 8 || total < begin;
    if last {
        let bits = ((prefix.hashed + total) as u64) * 8;
        block[BLOCK - 8..].copy_from_slice(&bits.to_be_bytes());
    }
    last
}

/// FIPS 180-4, 4.2.2.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// The compression over vectors. The module around it says what a vector is, in functions of the same features.
#[cfg(target_arch = "x86_64")]
macro_rules! compress_lanes {
    ($features:literal, $lanes:literal) => {
        #[target_feature(enable = $features)]
        pub fn compress(lanes: &mut [[u32; $lanes]; 8], blocks: &[[u8; 64]; $lanes]) {
            let mut w = words(blocks);
            let begin = lanes.each_ref().map(|word| load(word));
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = begin;
            for sixteen in 0..4 {
                macro_rules! round {
                    ($t:literal) => {
                        if sixteen > 0 {
                            let (w1, w14) = (w[($t + 1) % 16], w[($t + 14) % 16]);
                            let small0 = xor3(ror::<7, 25>(w1), ror::<18, 14>(w1), shr::<3>(w1));
                            let small1 = xor3(ror::<17, 15>(w14), ror::<19, 13>(w14), shr::<10>(w14));
                            w[$t] = add(add(w[$t], small0), add(w[($t + 9) % 16], small1));
                        }
                        let big1 = xor3(ror::<6, 26>(e), ror::<11, 21>(e), ror::<25, 7>(e));
                        let big0 = xor3(ror::<2, 30>(a), ror::<13, 19>(a), ror::<22, 10>(a));
                        let t1 = add(add(h, big1), add(ch(e, f, g), add(splat(super::K[sixteen * 16 + $t]), w[$t])));
                        let t2 = add(big0, maj(a, b, c));
                        (h, g, f, e, d, c, b, a) = (g, f, e, add(d, t1), c, b, a, add(t1, t2));
                    };
                }
                round!(0);
                round!(1);
                round!(2);
                round!(3);
                round!(4);
                round!(5);
                round!(6);
                round!(7);
                round!(8);
                round!(9);
                round!(10);
                round!(11);
                round!(12);
                round!(13);
                round!(14);
                round!(15);
            }
            for ((word, begin), end) in lanes.iter_mut().zip(begin).zip([a, b, c, d, e, f, g, h]) {
                store(word, add(begin, end));
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    compress_lanes!("avx512f,avx512bw", 16);

    #[target_feature(enable = "avx512f")]
    fn load(words: &[u32; 16]) -> __m512i {
        // SAFETY: 64 bytes are read from 64 bytes, at any alignment.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f")]
    fn store(words: &mut [u32; 16], vector: __m512i) {
        // SAFETY: 64 bytes are written to 64 bytes, at any alignment.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) }
    }

    #[target_feature(enable = "avx512f")]
    fn splat(word: u32) -> __m512i {
        _mm512_set1_epi32(word.cast_signed())
    }

    #[target_feature(enable = "avx512f")]
    fn add(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(a, b)
    }

    #[target_feature(enable = "avx512f")]
    fn ror<const N: i32, const REST: i32>(a: __m512i) -> __m512i {
        _mm512_ror_epi32::<N>(a)
    }

    #[target_feature(enable = "avx512f")]
    fn shr<const N: u32>(a: __m512i) -> __m512i {
        _mm512_srli_epi32::<N>(a)
    }

    // The third number of each is the truth table of the function of three bits.

    #[target_feature(enable = "avx512f")]
    fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        _mm512_ternarylogic_epi32::<0x96>(a, b, c)
    }

    #[target_feature(enable = "avx512f")]
    fn ch(e: __m512i, f: __m512i, g: __m512i) -> __m512i {
        _mm512_ternarylogic_epi32::<0xca>(e, f, g)
    }

    #[target_feature(enable = "avx512f")]
    fn maj(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        _mm512_ternarylogic_epi32::<0xe8>(a, b, c)
    }

    /// Turn sixteen blocks of sixteen words over: vector i holds word i of each block.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn words(blocks: &[[u8; 64]; 16]) -> [__m512i; 16] {
        let big_endian = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
        let mut rows = [_mm512_setzero_si512(); 16];
        for (row, block) in rows.iter_mut().zip(blocks) {
            // SAFETY: 64 bytes are read from 64 bytes, at any alignment.
            *row = _mm512_shuffle_epi8(unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }, big_endian);
        }
        let mut fours = rows;
        for four in 0..4 {
            let [r0, r1, r2, r3] = [rows[4 * four], rows[4 * four + 1], rows[4 * four + 2], rows[4 * four + 3]];
            let (low01, high01) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1));
            let (low23, high23) = (_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3));
            fours[4 * four] = _mm512_unpacklo_epi64(low01, low23);
            fours[4 * four + 1] = _mm512_unpackhi_epi64(low01, low23);
            fours[4 * four + 2] = _mm512_unpacklo_epi64(high01, high23);
            fours[4 * four + 3] = _mm512_unpackhi_epi64(high01, high23);
        }
        let mut out = fours;
        for column in 0..4 {
            let [f0, f1, f2, f3] = [fours[column], fours[4 + column], fours[8 + column], fours[12 + column]];
            let (even01, even23) = (_mm512_shuffle_i32x4::<0x88>(f0, f1), _mm512_shuffle_i32x4::<0x88>(f2, f3));
            let (odd01, odd23) = (_mm512_shuffle_i32x4::<0xdd>(f0, f1), _mm512_shuffle_i32x4::<0xdd>(f2, f3));
            out[column] = _mm512_shuffle_i32x4::<0x88>(even01, even23);
            out[4 + column] = _mm512_shuffle_i32x4::<0x88>(odd01, odd23);
            out[8 + column] = _mm512_shuffle_i32x4::<0xdd>(even01, even23);
            out[12 + column] = _mm512_shuffle_i32x4::<0xdd>(odd01, odd23);
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    compress_lanes!("avx2", 8);

    #[target_feature(enable = "avx2")]
    fn load(words: &[u32; 8]) -> __m256i {
        // SAFETY: 32 bytes are read from 32 bytes, at any alignment.
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2")]
    fn store(words: &mut [u32; 8], vector: __m256i) {
        // SAFETY: 32 bytes are written to 32 bytes, at any alignment.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), vector) }
    }

    #[target_feature(enable = "avx2")]
    fn splat(word: u32) -> __m256i {
        _mm256_set1_epi32(word.cast_signed())
    }

    #[target_feature(enable = "avx2")]
    fn add(a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(a, b)
    }

    #[target_feature(enable = "avx2")]
    fn ror<const N: i32, const REST: i32>(a: __m256i) -> __m256i {
        _mm256_or_si256(_mm256_srli_epi32::<N>(a), _mm256_slli_epi32::<REST>(a))
    }

    #[target_feature(enable = "avx2")]
    fn shr<const N: i32>(a: __m256i) -> __m256i {
        _mm256_srli_epi32::<N>(a)
    }

    #[target_feature(enable = "avx2")]
    fn xor3(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
        _mm256_xor_si256(_mm256_xor_si256(a, b), c)
    }

    #[target_feature(enable = "avx2")]
    fn ch(e: __m256i, f: __m256i, g: __m256i) -> __m256i {
        _mm256_xor_si256(_mm256_and_si256(_mm256_xor_si256(f, g), e), g)
    }

    #[target_feature(enable = "avx2")]
    fn maj(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
        _mm256_or_si256(_mm256_and_si256(a, b), _mm256_and_si256(_mm256_or_si256(a, b), c))
    }

    /// Turn eight blocks of sixteen words over, a half of each at a time.
    #[target_feature(enable = "avx2")]
    fn words(blocks: &[[u8; 64]; 8]) -> [__m256i; 16] {
        let big_endian = _mm256_broadcastsi128_si256(_mm_set_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203));
        let mut out = [_mm256_setzero_si256(); 16];
        for half in 0..2 {
            let mut rows = [_mm256_setzero_si256(); 8];
            for (row, block) in rows.iter_mut().zip(blocks) {
                let bytes = &block.as_chunks::<32>().0[half];
                // SAFETY: 32 bytes are read from 32 bytes, at any alignment.
                *row = _mm256_shuffle_epi8(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }, big_endian);
            }
            let mut fours = rows;
            for four in 0..2 {
                let [r0, r1, r2, r3] = [rows[4 * four], rows[4 * four + 1], rows[4 * four + 2], rows[4 * four + 3]];
                let (low01, high01) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpackhi_epi32(r0, r1));
                let (low23, high23) = (_mm256_unpacklo_epi32(r2, r3), _mm256_unpackhi_epi32(r2, r3));
                fours[4 * four] = _mm256_unpacklo_epi64(low01, low23);
                fours[4 * four + 1] = _mm256_unpackhi_epi64(low01, low23);
                fours[4 * four + 2] = _mm256_unpacklo_epi64(high01, high23);
                fours[4 * four + 3] = _mm256_unpackhi_epi64(high01, high23);
            }
            for column in 0..4 {
                let (low, high) = (fours[column], fours[4 + column]);
                out[8 * half + column] = _mm256_permute2x128_si256::<0x20>(low, high);
                out[8 * half + 4 + column] = _mm256_permute2x128_si256::<0x31>(low, high);
            }
        }
        out
    }
}

/// Streams that the SHA instructions take in turn: their latency is about twice their throughput.
#[cfg(target_arch = "x86_64")]
const STREAMS: usize = 2;

#[cfg(target_arch = "x86_64")]
mod shani {
    use std::arch::x86_64::*;

    use super::{K, STREAMS};

    #[target_feature(enable = "sse2")]
    fn quad(a: u32, b: u32, c: u32, d: u32) -> __m128i {
        _mm_set_epi32(d.cast_signed(), c.cast_signed(), b.cast_signed(), a.cast_signed())
    }

    /// The instructions keep the state as ABEF and CDGH, from the high word down, and do two rounds each.
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    pub fn compress(lanes: &mut [[u32; STREAMS]; 8], blocks: &[[u8; 64]; STREAMS]) {
        let big_endian = _mm_set_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
        let zero = _mm_setzero_si128();
        let (mut abef, mut cdgh, mut w) = ([zero; STREAMS], [zero; STREAMS], [[zero; 4]; STREAMS]);
        for stream in 0..STREAMS {
            let [a, b, c, d, e, f, g, h] = lanes.map(|word| word[stream]);
            (abef[stream], cdgh[stream]) = (quad(f, e, b, a), quad(h, g, d, c));
            for (four, bytes) in w[stream].iter_mut().zip(blocks[stream].as_chunks::<16>().0) {
                // SAFETY: 16 bytes are read from 16 bytes, at any alignment.
                *four = _mm_shuffle_epi8(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }, big_endian);
            }
        }
        let (first_abef, first_cdgh) = (abef, cdgh);
        for (four, k) in K.as_chunks::<4>().0.iter().enumerate() {
            let k = quad(k[0], k[1], k[2], k[3]);
            for stream in 0..STREAMS {
                let w = &mut w[stream];
                let (now, last) = (four % 4, w[(four + 3) % 4]);
                if four >= 4 {
                    let half = _mm_sha256msg1_epu32(w[now], w[(four + 1) % 4]);
                    let half = _mm_add_epi32(half, _mm_alignr_epi8::<4>(last, w[(four + 2) % 4]));
                    w[now] = _mm_sha256msg2_epu32(half, last);
                }
                let added = _mm_add_epi32(w[now], k);
                cdgh[stream] = _mm_sha256rnds2_epu32(cdgh[stream], abef[stream], added);
                let high = _mm_shuffle_epi32::<0x0e>(added);
                abef[stream] = _mm_sha256rnds2_epu32(abef[stream], cdgh[stream], high);
            }
        }
        for stream in 0..STREAMS {
            let abef = _mm_add_epi32(abef[stream], first_abef[stream]);
            let cdgh = _mm_add_epi32(cdgh[stream], first_cdgh[stream]);
            let words = [
                _mm_extract_epi32::<3>(abef),
                _mm_extract_epi32::<2>(abef),
                _mm_extract_epi32::<3>(cdgh),
                _mm_extract_epi32::<2>(cdgh),
                _mm_extract_epi32::<1>(abef),
                _mm_extract_epi32::<0>(abef),
                _mm_extract_epi32::<1>(cdgh),
                _mm_extract_epi32::<0>(cdgh),
            ];
            for (lane, word) in lanes.iter_mut().zip(words) {
                lane[stream] = word.cast_unsigned();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    proptest! {
        #[test]
        fn every_engine_agrees_with_one_message_at_a_time(
            prefix in proptest::collection::vec(any::<u8>(), 0..200),
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..40),
        ) {
            let expected: Vec<[u8; 32]> = messages
                .iter()
                .map(|message| Sha256::new().chain_update(&prefix).chain_update(message).finalize().into())
                .collect();
            for engine in Engine::ALL.into_iter().filter(|engine| engine.supported()) {
                let mut digests = vec![[0; 32]; messages.len()];
                engine.digests(Prefix::new(&prefix), messages.iter().map(|message| &message[..]), |number, state| {
                    digests[number] = bytes(state);
                });
                prop_assert_eq!(&digests, &expected, "{:?}", engine);
            }
        }
    }
}
