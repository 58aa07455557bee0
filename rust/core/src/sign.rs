//! HMAC-SHA256 (RFC 2104) of many bodies under one key: the key's two blocks are hashed once, the bodies side by side.

use sha2::{Digest, Sha256};

use crate::sha256::{Engine, Prefix, bytes, spread};

const BLOCK: usize = 64;

/// A thread of its own pays from about a millisecond of hashing on.
const BODIES_PER_THREAD_MIN: usize = 4_096;

/// A key, ready to sign.
#[derive(Clone)]
pub struct Key {
    inner: [u8; BLOCK],
    outer: [u8; BLOCK],
}

impl Key {
    /// A key of any length; one longer than a block counts by its digest.
    pub fn new(key: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        if key.len() > BLOCK {
            block[..32].copy_from_slice(&Sha256::digest(key));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        Self { inner: block.map(|byte| byte ^ 0x36), outer: block.map(|byte| byte ^ 0x5c) }
    }

    /// The signatures of all bodies, in their order.
    pub fn sign<B: AsRef<[u8]> + Sync>(&self, engine: Engine, bodies: &[B]) -> Vec<[u8; 32]> {
        let (inner, outer) = (Prefix::new(&self.inner), Prefix::new(&self.outer));
        let mut macs = vec![[0; 32]; bodies.len()];
        spread(bodies, &mut macs, BODIES_PER_THREAD_MIN, |bodies, macs| {
            engine.digests(inner, bodies.iter().map(AsRef::as_ref), |number, state| macs[number] = bytes(state));
            let digests = macs.to_vec();
            engine
                .digests(outer, digests.iter().map(|digest| &digest[..]), |number, state| macs[number] = bytes(state));
        });
        macs
    }
}
