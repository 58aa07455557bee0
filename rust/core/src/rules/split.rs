//! The members of an audience by shard of the dispatch cluster: a plan begins with the first before it sees the last.

use crate::bucket::{SHARDS, shard};
use crate::pgcopy::{Reader, Writer};
use crate::{Broken, Id};

pub struct Split {
    shards: Vec<Shard>,
}

struct Shard {
    count: usize,
    names: Writer,
}

impl Split {
    pub fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Shard { count: 0, names: Writer::with_capacity(0) });
        Self { shards: shards.collect() }
    }

    pub fn push(&mut self, project: &Id, name: &str) {
        let shard = &mut self.shards[usize::from(shard(project, name))];
        shard.count += 1;
        shard.names.row(1);
        shard.names.bytes(name.as_bytes());
    }

    /// Members of all shards.
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.count).sum()
    }

    /// A COPY of the external ids of each shard.
    pub fn finish(self) -> Vec<Vec<u8>> {
        self.shards.into_iter().map(|shard| shard.names.finish()).collect()
    }
}

impl Default for Split {
    fn default() -> Self {
        Self::new()
    }
}

/// Every external id of a COPY, or of several behind one another.
pub fn names(members: &[u8], mut each: impl FnMut(&str)) -> Result<(), Broken> {
    let mut reader = Reader::new(1);
    reader.feed(members, |row| {
        if let Some(name) = row.text(0)? {
            each(name);
        }
        Ok(())
    })?;
    reader.finish()
}
