//! External ids and the rows that they stand for.
//!
//! The names of a block lie behind one another in one text. The table from name to row keeps 4 bytes and a control byte
//! for each; it is cut into shards, so that growing one, which hashes all its names again, never holds anybody up for
//! long. Hashing is keyed, because clients choose names.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;

use super::mask::ROWS;

const SHARDS: usize = 256;

/// The names of one block, in the order of the rows.
#[derive(Debug, Clone, Default)]
pub struct Block {
    pub text: String,
    pub ends: Vec<u32>,
}

impl Block {
    pub fn name(&self, row: usize) -> &str {
        let from = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.text[from..self.ends[row] as usize]
    }
}

#[derive(Default)]
pub struct Names {
    blocks: Vec<Arc<Block>>,
    shards: Vec<HashTable<u32>>,
    hasher: RandomState,
}

pub fn place(row: u32) -> (usize, u16) {
    (row as usize / ROWS, row as u16)
}

fn name_of(blocks: &[Arc<Block>], row: u32) -> &str {
    blocks[row as usize / ROWS].name(row as usize % ROWS)
}

impl Names {
    pub fn len(&self) -> usize {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * ROWS + last.ends.len())
    }

    pub fn blocks(&self) -> &Vec<Arc<Block>> {
        &self.blocks
    }

    pub fn name(&self, row: u32) -> &str {
        name_of(&self.blocks, row)
    }

    pub fn find(&self, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        let shard = self.shards.get(shard_of(hash))?;
        shard.find(hash, |&row| name_of(&self.blocks, row) == name).copied()
    }

    /// The row of a name, and whether it is new. None when there is no room for another.
    pub fn slot(&mut self, name: &str) -> Option<(u32, bool)> {
        let hash = self.hasher.hash_one(name);
        if self.shards.is_empty() {
            self.shards.resize_with(SHARDS, HashTable::new);
        }
        let blocks = &self.blocks;
        if let Some(&row) = self.shards[shard_of(hash)].find(hash, |&row| name_of(blocks, row) == name) {
            return Some((row, false));
        }
        let row = u32::try_from(self.len()).ok()?;
        if (row as usize).is_multiple_of(ROWS) {
            self.blocks.push(Arc::default());
        }
        let block = Arc::make_mut(self.blocks.last_mut()?);
        block.text.push_str(name);
        block.ends.push(block.text.len() as u32);
        if block.ends.len() == ROWS {
            block.text.shrink_to_fit();
        }
        self.insert(hash, row);
        Some((row, true))
    }

    fn insert(&mut self, hash: u64, row: u32) {
        let Self { blocks, shards, hasher } = self;
        shards[shard_of(hash)].insert_unique(hash, row, |&row| hasher.hash_one(name_of(blocks, row)));
    }

    /// Nobody finds the row any more, and the name is gone from memory.
    pub fn forget(&mut self, row: u32) {
        let (block, at) = place(row);
        let hash = self.hasher.hash_one(self.name(row));
        if let Some(shard) = self.shards.get_mut(shard_of(hash))
            && let Ok(entry) = shard.find_entry(hash, |&found| found == row)
        {
            entry.remove();
        }
        let block = Arc::make_mut(&mut self.blocks[block]);
        let from = if at == 0 { 0 } else { block.ends[usize::from(at) - 1] as usize };
        let to = block.ends[usize::from(at)] as usize;
        block.text.replace_range(from..to, "");
        for end in &mut block.ends[usize::from(at)..] {
            *end -= (to - from) as u32;
        }
    }

    /// From the blocks of a snapshot: all but the last are full. `dead` rows are found by nobody.
    pub fn from_blocks(blocks: Vec<Arc<Block>>, dead: impl Fn(u32) -> bool) -> Self {
        let mut names = Self { blocks, ..Self::default() };
        names.shards.resize_with(SHARDS, HashTable::new);
        let expected = names.len() / SHARDS;
        for shard in &mut names.shards {
            let hasher = &names.hasher;
            let blocks = &names.blocks;
            shard.reserve(expected, |&row| hasher.hash_one(name_of(blocks, row)));
        }
        for row in 0..names.len() as u32 {
            if !dead(row) {
                let hash = names.hasher.hash_one(names.name(row));
                names.insert(hash, row);
            }
        }
        names
    }

    pub fn bytes(&self) -> (usize, usize) {
        let texts = self.blocks.iter().map(|block| block.text.capacity() + block.ends.capacity() * 4).sum();
        let tables = self.shards.iter().map(HashTable::allocation_size).sum();
        (texts, tables)
    }
}

fn shard_of(hash: u64) -> usize {
    // The table itself looks at the lowest and the highest bits.
    (hash >> 32) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_forgotten() {
        let mut names = Names::default();
        let made: Vec<String> = (0..70_000).map(|i| format!("person-{i}")).collect();
        for (i, name) in made.iter().enumerate() {
            assert_eq!(names.slot(name), Some((i as u32, true)));
        }
        assert_eq!(names.slot("person-5"), Some((5, false)));
        names.forget(5);
        assert_eq!(names.find("person-5"), None);
        assert_eq!(names.name(6), "person-6");
        assert_eq!(names.slot("person-5"), Some((70_000, true)));
        let copy = Names::from_blocks(names.blocks().clone(), |row| row == 5);
        assert!(made.iter().all(|name| copy.find(name) == names.find(name)));
    }
}
