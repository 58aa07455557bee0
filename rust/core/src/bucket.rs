//! Who falls where: A/B buckets (B117, C44) and the shards of the dispatch cluster (design 4).

use xxhash_rust::xxh64::Xxh64;

use crate::Id;
use crate::sha256::{Engine, Prefix, State, spread};

/// A thread of its own pays from about a millisecond of hashing on.
const PEOPLE_PER_THREAD_MIN: usize = 16_384;

/// SHA-256 of test and person together, the whole digest as a big-endian integer, mod 100.
///
/// Hash once, keep nothing: the assignment is sticky because the hash is.
pub fn bucket(test: &str, person: &str) -> u8 {
    buckets(Engine::best(), test.as_bytes(), &[person])[0]
}

/// What `bucket` is computed from, in hexadecimal.
pub fn digest(test: &str, person: &str) -> String {
    let mut hex = String::new();
    let said = |_, state: State| hex = state.map(|word| format!("{word:08x}")).concat();
    Engine::best().digests(Prefix::new(test.as_bytes()), [person.as_bytes()], said);
    hex
}

/// The buckets of many people, in their order, on as many threads as pay.
pub fn buckets<P: AsRef<[u8]> + Sync>(engine: Engine, test: &[u8], people: &[P]) -> Vec<u8> {
    let prefix = Prefix::new(test);
    let mut out = vec![0; people.len()];
    let work = |people: &[P], out: &mut [u8]| {
        engine.digests(prefix, people.iter().map(AsRef::as_ref), |number, state| out[number] = percent(state));
    };
    spread(people, &mut out, PEOPLE_PER_THREAD_MIN, work);
    out
}

/// A 256-bit number mod 100. 2^32 is 96 mod 100, so the words count 96^7, 96^6, ... 1, each mod 100.
fn percent(state: State) -> u8 {
    const WEIGHTS: [u64; 8] = [16, 96, 76, 56, 36, 16, 96, 1];
    (state.iter().zip(WEIGHTS).map(|(&word, weight)| u64::from(word) * weight).sum::<u64>() % 100) as u8
}

pub const SHARDS: u8 = 64;

/// The top 6 bits of xxh64(project || person): one of 64 virtual shards.
pub fn shard(project: &Id, person: &str) -> u8 {
    let mut hash = Xxh64::new(0);
    hash.update(project);
    hash.update(person.as_bytes());
    (hash.digest() >> 58) as u8
}
