//! HMAC-SHA256 of many bodies under one key: the key's two blocks are hashed once.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

pub fn hmac_sha256<'b>(key: &[u8], bodies: impl Iterator<Item = &'b [u8]>) -> Vec<[u8; 32]> {
    let Ok(keyed) = Hmac::<Sha256>::new_from_slice(key) else { unreachable!("HMAC takes a key of any length") };
    bodies.map(|body| keyed.clone().chain_update(body).finalize().into_bytes().into()).collect()
}
