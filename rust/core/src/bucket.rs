//! Who falls where: A/B buckets (B117, C44) and the shards of the dispatch cluster (design 4).

use sha2::{Digest, Sha256};
use xxhash_rust::xxh64::Xxh64;

use crate::Id;

/// SHA-256 of test and person together, the whole digest as a big-endian integer, mod 100.
///
/// Hash once, keep nothing: the assignment is sticky because the hash is.
pub fn bucket(test: &str, person: &str) -> u8 {
    let digest = Sha256::new().chain_update(test).chain_update(person).finalize();
    digest.iter().fold(0_u16, |rest, &byte| ((rest << 8) + u16::from(byte)) % 100) as u8
}

pub const SHARDS: u8 = 64;

/// The top 6 bits of xxh64(project || person): one of 64 virtual shards.
pub fn shard(project: &Id, person: &str) -> u8 {
    let mut hash = Xxh64::new(0);
    hash.update(project);
    hash.update(person.as_bytes());
    (hash.digest() >> 58) as u8
}
