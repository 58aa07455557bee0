//! Who is next on a lane: class `now` before `bulk`, and within a class tenants in turn.
//!
//! Deficit round robin where every request weighs the same: a tenant has so many requests in a turn, so a broadcast to
//! millions and one to a thousand both move. Loads of one tenant go in the order they came.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::{Class, Load};

/// Requests of one tenant in a turn: enough to share a write, few enough that others wait for microseconds.
const QUANTUM: u32 = 16;

/// One item on its way.
pub(crate) struct Task {
    pub load: Arc<dyn Load>,
    pub item: u32,
    pub replays: u8,
    pub class: Class,
}

#[derive(Default)]
pub(crate) struct Turns {
    lines: [Line; 2],
    waiting: usize,
}

#[derive(Default)]
struct Line {
    /// Proved unread by a provider: before everybody who has not been sent yet.
    again: VecDeque<Task>,
    tenants: VecDeque<Tenant>,
}

struct Tenant {
    id: u128,
    credit: u32,
    jobs: VecDeque<Job>,
}

struct Job {
    load: Arc<dyn Load>,
    items: VecDeque<u32>,
}

impl Turns {
    pub fn len(&self) -> usize {
        self.waiting
    }

    pub fn push(&mut self, class: Class, tenant: u128, load: &Arc<dyn Load>, items: &[u32]) {
        if items.is_empty() {
            return;
        }
        self.waiting += items.len();
        let tenants = &mut self.lines[class as usize].tenants;
        let job = Job { load: Arc::clone(load), items: items.iter().copied().collect() };
        match tenants.iter_mut().find(|waiting| waiting.id == tenant) {
            Some(waiting) => waiting.jobs.push_back(job),
            None => tenants.push_back(Tenant { id: tenant, credit: QUANTUM, jobs: [job].into() }),
        }
    }

    pub fn push_again(&mut self, task: Task) {
        self.waiting += 1;
        self.lines[task.class as usize].again.push_back(task);
    }

    pub fn pop(&mut self) -> Option<Task> {
        let task = self.lines[0].pop(Class::Now).or_else(|| self.lines[1].pop(Class::Bulk))?;
        self.waiting -= 1;
        Some(task)
    }

    pub fn drain(&mut self) -> Vec<Task> {
        std::iter::from_fn(|| self.pop()).collect()
    }
}

impl Line {
    fn pop(&mut self, class: Class) -> Option<Task> {
        if let Some(task) = self.again.pop_front() {
            return Some(task);
        }
        let tenant = self.tenants.front_mut()?;
        let job = tenant.jobs.front_mut()?;
        let item = job.items.pop_front()?;
        let load = Arc::clone(&job.load);
        if job.items.is_empty() {
            tenant.jobs.pop_front();
        }
        tenant.credit -= 1;
        if tenant.jobs.is_empty() {
            self.tenants.pop_front();
        } else if tenant.credit == 0 {
            tenant.credit = QUANTUM;
            self.tenants.rotate_left(1);
        }
        Some(Task { load, item, replays: 0, class })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Feedback, Reply, Request};

    struct Nothing;

    impl Load for Nothing {
        fn open(&self) -> bool {
            true
        }

        fn request(&self, _: u32) -> Option<Request> {
            None
        }

        fn reply(&self, _: u32, _: Reply) -> Feedback {
            Feedback::Neutral
        }
    }

    #[test]
    fn nobody_starves_and_now_overtakes() {
        let load: Arc<dyn Load> = Arc::new(Nothing);
        let mut turns = Turns::default();
        turns.push(Class::Bulk, 1, &load, &(0..1_000).collect::<Vec<_>>());
        turns.push(Class::Bulk, 2, &load, &(1_000..1_040).collect::<Vec<_>>());
        turns.push(Class::Now, 3, &load, &[5_000]);
        assert_eq!(turns.len(), 1_041);
        assert_eq!(turns.pop().unwrap().item, 5_000);
        let first: Vec<u32> = (0..100).map(|_| turns.pop().unwrap().item).collect();
        assert_eq!(first.iter().filter(|item| **item >= 1_000).count(), 40, "two turns of one, three of the other");
        assert_eq!(turns.drain().len(), 940);
        assert_eq!(turns.len(), 0);
    }
}
