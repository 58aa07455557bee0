//! A chunk on its way into the lanes: its items in their order, handed in piece by piece as the window allows.

use std::collections::HashMap;
use std::sync::Arc;

use crate::lane::Tenant;
use crate::{Class, Fate, Lane, Lanes, Load};

/// Items are numbered from 0 in the order in which they may leave.
pub struct Line {
    lanes: Vec<Option<Arc<Lane>>>,
    /// The lane of each item.
    of: Vec<u32>,
    class: Class,
    tenant: Tenant,
    /// Those before it were admitted.
    next: usize,
    /// Places promised to those behind it, by lane.
    reserved: Vec<usize>,
}

impl Line {
    /// `lanes` are (name, base); `of` is the place in that list of each item's lane.
    pub fn new(
        pool: &Lanes,
        lanes: impl Iterator<Item = (Arc<str>, String)>,
        of: Vec<u32>,
        class: Class,
        tenant: Tenant,
    ) -> Self {
        let lanes: Vec<_> = lanes.map(|(name, base)| pool.lane(&name, &base)).collect();
        let reserved = vec![0; lanes.len()];
        Self { lanes, of, class, tenant, next: 0, reserved }
    }

    /// Not admitted yet.
    pub fn left(&self) -> usize {
        self.of.len() - self.next
    }

    /// Places for some of the next `want`, counted from the first. None of them may be promised when the first's lane has
    /// no room.
    pub fn reserve(&mut self, want: usize) -> usize {
        let ahead: usize = self.reserved.iter().sum();
        let items = &self.of[(self.next + ahead).min(self.of.len())..];
        let items = &items[..want.min(items.len())];
        let mut wanted: HashMap<u32, usize> = HashMap::new();
        for &lane in items {
            *wanted.entry(lane).or_default() += 1;
        }
        let class = self.class;
        let mut granted: HashMap<u32, usize> = wanted
            .into_iter()
            .map(|(lane, want)| {
                // Whoever has no lane hears so at once.
                let room = self.lanes[lane as usize].as_ref().map_or(want, |found| found.reserve(class, want));
                (lane, room)
            })
            .collect();
        let mut reserved = 0;
        for lane in items {
            match granted.get_mut(lane) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    self.reserved[*lane as usize] += 1;
                    reserved += 1;
                }
                _ => break,
            }
        }
        for (lane, unused) in granted {
            if let Some(lane) = &self.lanes[lane as usize] {
                lane.release(class, unused);
            }
        }
        reserved
    }

    /// Hands in the next `n`, and gives back what else was reserved.
    pub fn admit(&mut self, n: usize, pool: &Lanes, load: &Arc<dyn Load>) {
        let n = n.min(self.left());
        let mut items: HashMap<u32, Vec<u32>> = HashMap::new();
        for item in self.next..self.next + n {
            items.entry(self.of[item]).or_default().push(item as u32);
        }
        self.next += n;
        for (lane, items) in items {
            self.reserved[lane as usize] -= items.len();
            self.hand_in(lane, &items, pool, load);
        }
        self.release();
    }

    /// Again those who were admitted before.
    pub fn push_again(&self, items: &[u32], pool: &Lanes, load: &Arc<dyn Load>) {
        for &item in items {
            let lane = self.of[item as usize];
            if let Some(found) = &self.lanes[lane as usize] {
                // It had a place a moment ago, and nobody is admitted in its stead.
                found.claim(self.class);
            }
            self.hand_in(lane, &[item], pool, load);
        }
    }

    fn hand_in(&self, lane: u32, items: &[u32], pool: &Lanes, load: &Arc<dyn Load>) {
        match &self.lanes[lane as usize] {
            Some(lane) => pool.push(lane, load, self.class, self.tenant, items),
            None => {
                for &item in items {
                    load.finished(item, Fate::Unsent("lanes_busy"));
                }
            }
        }
    }

    /// Gives back every place that nobody was admitted for.
    pub fn release(&mut self) {
        for (lane, reserved) in self.lanes.iter().zip(&mut self.reserved) {
            if let Some(lane) = lane {
                lane.release(self.class, *reserved);
            }
            *reserved = 0;
        }
    }

    /// For how long every lane of those who are left is not tried, in seconds; None: at least one is open.
    pub fn held_s(&self) -> Option<f64> {
        let mut shortest: Option<f64> = None;
        let mut asked = vec![false; self.lanes.len()];
        for &lane in &self.of[self.next..] {
            if std::mem::replace(&mut asked[lane as usize], true) {
                continue;
            }
            let held = self.lanes[lane as usize].as_ref().map_or(0.0, |lane| lane.held().as_secs_f64());
            if held == 0.0 {
                return None;
            }
            shortest = Some(shortest.map_or(held, |shortest| shortest.min(held)));
        }
        shortest
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.release();
    }
}
