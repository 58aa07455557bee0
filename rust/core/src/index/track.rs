//! What people did of one type: for each row the second of the last event, the days of those before it, and for a few
//! days the second of every one.
//!
//! A row's events lie in levels: the last one by its second, then the days of the second to the eighth last, each level
//! a column of its own, and what is older as pairs of day and count. So "at least k since a day" is one comparison of
//! level k, for any window of any length; only beyond the eighth event a row is looked at on its own. Events may come in
//! any order: each finds its level, and those behind it move on by one.

use std::collections::HashMap;
use std::sync::Arc;

use super::column::Column;
use super::names::place;
use crate::time::{DAY_MS, SECOND_MS};

/// Levels that are columns of days: with the last event's second, eight events have their place.
pub const DAYS: usize = 7;
pub const LEVELS: u32 = DAYS as u32 + 1;
pub const DAY_S: u32 = (DAY_MS / SECOND_MS) as u32;
/// Seconds of all events are kept this long before the newest one: three days, and a day for clocks that run ahead.
const RECENT_S: u32 = 4 * DAY_S;
/// Event types of a project; those that come later are not here.
pub const TRACKS_MAX: usize = 1_024;

/// So many events on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub day: u16,
    pub count: u16,
}

#[derive(Debug, Clone, Default)]
pub struct Block {
    pub last: Column<u32>,
    pub days: [Column<u16>; DAYS],
    /// Older events, later days first.
    pub more: HashMap<u16, Arc<Vec<Run>>>,
    /// The events of the last days, in no order.
    pub recent: Vec<Recent>,
}

/// One event in six bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent {
    pub row: u16,
    second: [u16; 2],
}

impl Recent {
    pub fn new(row: u16, second: u32) -> Self {
        Self { row, second: [(second >> 16) as u16, second as u16] }
    }

    pub fn second(self) -> u32 {
        u32::from(self.second[0]) << 16 | u32::from(self.second[1])
    }
}

/// A second as it is kept: 0 stands for never.
pub fn second_of(ms: i64) -> u32 {
    u32::try_from(ms.div_euclid(SECOND_MS).max(1)).unwrap_or(u32::MAX)
}

pub fn day_of(second: u32) -> u16 {
    u16::try_from((second / DAY_S).max(1)).unwrap_or(u16::MAX)
}

impl Block {
    fn event(&mut self, row: u16, second: u32) {
        let last = self.last.get(row);
        if second > last {
            self.last.set(row, second);
            if last != 0 {
                self.day(row, day_of(last), 1);
            }
        } else {
            self.day(row, day_of(second), 1);
        }
    }

    /// Events of one day, none of which is the last.
    fn day(&mut self, row: u16, day: u16, count: u32) {
        // After as many as there are levels, no further one of the same day finds a place there.
        for _ in 0..count.min(DAYS as u32) {
            let mut carried = day;
            for level in &mut self.days {
                let found = level.get(row);
                if carried > found {
                    level.set(row, carried);
                    carried = found;
                    if carried == 0 {
                        break;
                    }
                }
            }
            if carried != 0 {
                self.older(row, carried, 1);
            }
        }
        if count > DAYS as u32 {
            self.older(row, day, count - DAYS as u32);
        }
    }

    fn older(&mut self, row: u16, day: u16, count: u32) {
        let runs = Arc::make_mut(self.more.entry(row).or_default());
        let mut left = count;
        let mut at = runs.partition_point(|run| run.day > day);
        while left > 0 {
            match runs.get_mut(at) {
                Some(run) if run.day == day => {
                    let fits = u32::from(u16::MAX - run.count).min(left);
                    run.count += fits as u16;
                    left -= fits;
                    at += 1;
                }
                _ => runs.insert(at, Run { day, count: 0 }),
            }
        }
    }

    /// How many events there are on or after a day.
    pub fn count_since(&self, row: u16, day: u16) -> u32 {
        let last = self.last.get(row);
        if last == 0 || day_of(last) < day {
            return 0;
        }
        let levels = 1 + self.days.iter().take_while(|level| level.get(row) >= day.max(1)).count() as u32;
        if levels < LEVELS {
            return levels;
        }
        let older = self.more.get(&row).map_or(0, |runs| {
            runs.iter().take_while(|run| run.day >= day).fold(0_u32, |sum, run| sum.saturating_add(run.count.into()))
        });
        levels.saturating_add(older)
    }

    /// The day of the event with so many later ones.
    pub fn nth_day(&self, row: u16, nth: u32) -> Option<u16> {
        if nth == 0 {
            return Some(self.last.get(row)).filter(|&second| second != 0).map(day_of);
        }
        if let Some(level) = self.days.get(nth as usize - 1) {
            return Some(level.get(row)).filter(|&day| day != 0);
        }
        let mut left = nth - LEVELS;
        for run in self.more.get(&row)?.iter() {
            if left < run.count.into() {
                return Some(run.day);
            }
            left -= u32::from(run.count);
        }
        None
    }

    /// Seconds of a row's events from one on, later ones first.
    pub fn recent_since(&self, row: u16, second: u32) -> Vec<u32> {
        let mut found: Vec<u32> =
            self.recent.iter().filter(|event| event.row == row).map(|event| event.second()).collect();
        found.retain(|&at| at >= second);
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }

    fn clear(&mut self, row: u16) {
        self.last.set(row, 0);
        for level in &mut self.days {
            level.set(row, 0);
        }
        self.more.remove(&row);
        self.recent.retain(|event| event.row != row);
    }

    fn bytes(&self) -> usize {
        let more: usize = self.more.values().map(|runs| runs.capacity() * 4 + 40).sum();
        self.last.bytes()
            + self.days.iter().map(Column::bytes).sum::<usize>()
            + more
            + self.more.capacity() * 11
            + self.recent.capacity() * size_of::<Recent>()
    }
}

/// What one row has of a track, to be given to another.
struct Past {
    last: u32,
    days: Vec<Run>,
    recent: Vec<u32>,
}

#[derive(Debug, Clone, Default)]
pub struct Track {
    pub blocks: Vec<Option<Arc<Block>>>,
    /// From this second on all events are among the recent ones.
    pub recent_from: u32,
    pub newest: u32,
    /// Recent events when they were pruned last, and now.
    pruned: usize,
    recent: usize,
}

impl Track {
    pub fn new(blocks: Vec<Option<Arc<Block>>>, recent_from: u32, newest: u32) -> Self {
        let recent = blocks.iter().flatten().map(|block| block.recent.len()).sum();
        Self { blocks, recent_from, newest, pruned: recent, recent }
    }

    pub fn block(&self, block: usize) -> Option<&Arc<Block>> {
        self.blocks.get(block).and_then(Option::as_ref)
    }

    fn block_mut(&mut self, block: usize) -> &mut Block {
        if self.blocks.len() <= block {
            self.blocks.resize(block + 1, None);
        }
        Arc::make_mut(self.blocks[block].get_or_insert_default())
    }

    pub fn event(&mut self, row: u32, second: u32) {
        self.newest = self.newest.max(second);
        let recent = second >= self.recent_from;
        let (block, row) = place(row);
        let into = self.block_mut(block);
        into.event(row, second);
        if recent {
            into.recent.push(Recent::new(row, second));
            self.recent += 1;
            self.prune();
        }
    }

    /// A day of the roll-up: its events but the last have no second, so none of that day counts as recent.
    pub fn day(&mut self, row: u32, day: u16, count: u32, last: u32) {
        if count == 0 {
            return;
        }
        self.event(row, last);
        if count > 1 {
            let (block, row) = place(row);
            self.block_mut(block).day(row, day, count - 1);
            self.forget_before((u32::from(day) + 1).saturating_mul(DAY_S));
        }
    }

    fn prune(&mut self) {
        if self.recent > 2 * self.pruned + 4_096 {
            self.forget_before(self.newest.saturating_sub(RECENT_S));
            self.pruned = self.recent;
        }
    }

    /// Gives back what growing took; for the end of a load.
    pub fn shrink(&mut self) {
        self.forget_before(self.newest.saturating_sub(RECENT_S));
        for block in self.blocks.iter_mut().flatten() {
            let block = Arc::make_mut(block);
            block.recent.shrink_to_fit();
            block.more.shrink_to_fit();
            block.last.shrink();
            block.days.iter_mut().for_each(Column::shrink);
        }
    }

    fn forget_before(&mut self, second: u32) {
        if second <= self.recent_from {
            return;
        }
        self.recent_from = second;
        self.recent = 0;
        for block in self.blocks.iter_mut().flatten() {
            if block.recent.iter().any(|event| event.second() < second) {
                let block = Arc::make_mut(block);
                block.recent.retain(|event| event.second() >= second);
                block.recent.shrink_to(block.recent.len() * 3 / 2);
            }
            self.recent += block.recent.len();
        }
    }

    /// One row's events are another's as well from now on.
    pub fn fold(&mut self, from: u32, into: u32) {
        let Some(past) = self.past(from) else { return };
        let (block, row) = place(into);
        let into = self.block_mut(block);
        into.event(row, past.last);
        for run in past.days {
            into.day(row, run.day, run.count.into());
        }
        let recent = past.recent.len();
        into.recent.extend(past.recent.into_iter().map(|second| Recent::new(row, second)));
        self.recent += recent;
    }

    fn past(&self, row: u32) -> Option<Past> {
        let (block, row) = place(row);
        let block = self.block(block)?;
        let last = Some(block.last.get(row)).filter(|&second| second != 0)?;
        let levels = block.days.iter().map(|level| level.get(row)).take_while(|&day| day != 0);
        let mut days: Vec<Run> = levels.map(|day| Run { day, count: 1 }).collect();
        days.extend(block.more.get(&row).into_iter().flat_map(|runs| runs.iter().copied()));
        Some(Past { last, days, recent: block.recent_since(row, 0) })
    }

    pub fn clear(&mut self, row: u32) {
        let (block, at) = place(row);
        if self.block(block).is_some_and(|block| block.last.get(at) != 0) {
            self.block_mut(block).clear(at);
        }
    }

    pub fn bytes(&self) -> usize {
        self.blocks.iter().flatten().map(|block| block.bytes()).sum::<usize>()
            + self.blocks.capacity() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: u32 = 20_000 * DAY_S;

    proptest! {
        #[test]
        fn levels_count_as_a_list_does(
            mine in proptest::collection::vec(0_u32..30 * DAY_S, 0..30),
            theirs in proptest::collection::vec(0_u32..30 * DAY_S, 0..30),
            days in proptest::collection::vec((0_u16..30, 1_u32..12), 0..3),
        ) {
            let mut track = Track::default();
            let mut list: Vec<u32> = Vec::new();
            for at in &mine {
                track.event(70_000, BASE + at);
                list.push(BASE + at);
            }
            for at in &theirs {
                track.event(3, BASE + at);
                list.push(BASE + at);
            }
            for &(day, count) in &days {
                let day = 20_000 + day;
                track.day(3, day, count, (u32::from(day) + 1) * DAY_S - 1);
                for _ in 0..count { list.push((u32::from(day) + 1) * DAY_S - 1); }
            }
            track.fold(3, 70_000);
            list.sort_unstable_by(|a, b| b.cmp(a));
            let (block, row) = place(70_000);
            let Some(block) = track.block(block) else { prop_assert!(list.is_empty()); return Ok(()) };
            prop_assert_eq!(block.last.get(row), list.first().copied().unwrap_or(0));
            for day in 19_999..20_031_u16 {
                let expected = list.iter().filter(|&&at| at >= u32::from(day) * DAY_S).count() as u32;
                prop_assert_eq!(block.count_since(row, day), expected);
            }
            for nth in 0..=list.len() {
                prop_assert_eq!(block.nth_day(row, nth as u32), list.get(nth).map(|&at| day_of(at)));
            }
            let recent: Vec<u32> = list.iter().copied().filter(|&at| at >= track.recent_from).collect();
            prop_assert_eq!(block.recent_since(row, track.recent_from), recent);
        }
    }

    #[test]
    fn a_day_of_more_events_than_a_run_holds() {
        let mut track = Track::default();
        track.day(0, 20_000, 200_000, 20_000 * DAY_S + 5);
        assert_eq!(track.block(0).unwrap().count_since(0, 20_000), 200_000);
        assert_eq!(track.block(0).unwrap().count_since(0, 20_001), 0);
    }
}
