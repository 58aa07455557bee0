//! A rule over the index as it was at one instant.
//!
//! Binding a rule takes shared references to the blocks of the columns that it reads, under the index' lock and in
//! microseconds; everything after that needs no lock: who updates the index meanwhile copies the blocks that are held
//! here. The rule is a small program over each block: a group narrows the rows that its next member looks at, so the
//! cheapest and most selective member goes first (measured on a thousand rows), and a block is left as soon as nobody
//! is left in it.
//!
//! A leaf that is *not here* (a dropped column, a stream that is not filled, a window behind what is kept) makes no
//! guess: the program runs once with all such leaves against membership and once for it. Who is in both answers is a
//! member; who is only in the second is for Postgres to decide.

use std::sync::Arc;

use rayon::prelude::*;
use roaring::RoaringBitmap;

use super::State;
use super::mask::{self, Ask, Mask, ROWS};
use super::names::{self, place};
use super::track::{self, DAY_S, LEVELS, Track, day_of, second_of};
use super::traits::{Codes, Dictionary, TraitColumn};
use crate::json::Raw;
use crate::pgcopy::Writer;
use crate::rules::{
    Compare, EventLeaf, LeafKind, Node, Observed, ProfileLeaf, Rule, Seen, Since, Test, explain, prefix,
};
use crate::time::{DAY_MS, SECOND_MS};

/// Rows whose leaves are tried to find the order.
const SAMPLE_WORDS: usize = 16;
/// Fewer blocks than this are walked by the caller alone.
const PARALLEL_BLOCKS_MIN: usize = 4;

pub struct View {
    rule: Arc<Rule>,
    now_ms: i64,
    leaves: Vec<Bound>,
    people: Vec<Arc<Mask>>,
    names: Vec<Arc<names::Block>>,
    torn: Arc<RoaringBitmap>,
}

enum Bound {
    /// Not here.
    Open,
    Constant(bool),
    Coded(Coded),
    /// C29: the trait, and for who has none of that name the user's own field.
    Either(Coded, Coded),
    Events {
        blocks: Vec<Option<Arc<track::Block>>>,
        window: Window,
        counted: bool,
        least: u32,
        negated: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Window {
    Ever,
    FromDay(u16),
    FromSecond(u32),
}

/// A trait column and the truth of each code.
struct Coded {
    blocks: Vec<Option<Arc<Codes>>>,
    dictionary: Option<Arc<Dictionary>>,
    table: Vec<bool>,
    /// The codes that hold when they are few (or, negated, those that do not).
    few: Option<([u16; 4], usize)>,
    negated: bool,
}

enum Step {
    All(Vec<Step>),
    Any(Vec<Step>),
    Not(Box<Step>),
    Leaf(usize),
}

/// How leaves that are not here count in one run.
#[derive(Clone, Copy)]
struct Run {
    /// For membership, or against it.
    hopeful: bool,
    /// Leaves from here on are taken as not here.
    limit: usize,
}

/// Masks that are used again and again.
#[derive(Default)]
struct Scratch {
    masks: Vec<Mask>,
    counts: Vec<u32>,
}

impl Scratch {
    fn take(&mut self) -> Mask {
        self.masks.pop().unwrap_or_else(Mask::none)
    }
}

/// What one walk found.
pub struct Answer {
    members: Vec<Mask>,
    undecided: Vec<Mask>,
    names: Vec<Arc<names::Block>>,
    pub count: usize,
    pub open: usize,
}

/// One leaf of a preview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Funnel {
    pub path: String,
    /// People for whom this leaf holds, whatever the others say; None when it is not here, or unsure of somebody.
    pub alone: Option<usize>,
    /// People who are not ruled out by this leaf and those before it.
    pub remaining: usize,
}

impl View {
    pub(super) fn bind(state: &State, rule: Arc<Rule>, now_ms: i64) -> Self {
        let leaves = rule
            .leaves
            .iter()
            .map(|leaf| match leaf.kind {
                LeafKind::Profile(leaf) => bind_profile(state, &rule, &rule.profile_leaves[leaf]),
                LeafKind::Event(leaf) => bind_event(state, &rule.event_leaves[leaf], now_ms),
            })
            .collect();
        Self {
            rule,
            now_ms,
            leaves,
            people: state.people.clone(),
            names: state.names.blocks().clone(),
            torn: Arc::clone(&state.torn),
        }
    }

    /// The places of the leaves that are not here.
    pub fn missing(&self) -> Vec<String> {
        let open = self.leaves.iter().zip(&self.rule.leaves).filter(|(bound, _)| matches!(bound, Bound::Open));
        open.map(|(_, leaf)| leaf.path.clone()).collect()
    }

    pub fn ask(&self) -> Answer {
        let root = self.program();
        let sure = self.leaves.iter().all(|bound| !matches!(bound, Bound::Open)) && self.torn.is_empty();
        let limit = self.leaves.len();
        let members = self.walk(&root, Run { hopeful: false, limit });
        let mut undecided = Vec::new();
        if !sure {
            undecided = self.walk(&root, Run { hopeful: true, limit });
            undecided.iter_mut().zip(&members).for_each(|(may, yes)| may.without(yes));
        }
        Answer {
            count: members.iter().map(Mask::count).sum(),
            open: undecided.iter().map(Mask::count).sum(),
            members,
            undecided,
            names: self.names.clone(),
        }
    }

    /// How many hold each leaf alone, and how many are left behind it, in the order in which the rule is written.
    pub fn preview(&self) -> (usize, usize, Vec<Funnel>) {
        let root = self.program();
        let mut funnel = Vec::with_capacity(self.leaves.len());
        let everybody = Run { hopeful: false, limit: usize::MAX };
        for (number, leaf) in self.rule.leaves.iter().enumerate() {
            let alone = match self.leaves[number] {
                Bound::Open => None,
                _ => Some(self.walk(&Step::Leaf(number), everybody).iter().map(Mask::count).sum()),
            };
            // Of whom it is unsure it cannot say that they do not hold it.
            let alone = alone.filter(|&sure| {
                let hopeful = Run { hopeful: true, ..everybody };
                self.torn.is_empty()
                    || sure == self.walk(&Step::Leaf(number), hopeful).iter().map(Mask::count).sum::<usize>()
            });
            let left = self.walk(&root, Run { hopeful: true, limit: number + 1 });
            funnel.push(Funnel { path: leaf.path.clone(), alone, remaining: left.iter().map(Mask::count).sum() });
        }
        let answer = self.ask();
        (answer.count, answer.open, funnel)
    }

    fn walk(&self, root: &Step, run: Run) -> Vec<Mask> {
        let one = |scratch: &mut Scratch, block: usize| {
            let mut out = Mask::none();
            let within = &*self.people[block];
            if !within.is_empty() {
                self.step(root, block, within, &mut out, run, scratch);
            }
            out
        };
        if self.people.len() < PARALLEL_BLOCKS_MIN {
            let mut scratch = Scratch::default();
            return (0..self.people.len()).map(|block| one(&mut scratch, block)).collect();
        }
        (0..self.people.len()).into_par_iter().map_init(Scratch::default, one).collect()
    }

    /// out = the rows of `within` for which the step holds.
    fn step(&self, step: &Step, block: usize, within: &Mask, out: &mut Mask, run: Run, scratch: &mut Scratch) {
        match step {
            Step::All(steps) => {
                let mut found = scratch.take();
                out.copy(within);
                for step in steps {
                    self.step(step, block, out, &mut found, run, scratch);
                    std::mem::swap(out, &mut found);
                    if out.is_empty() {
                        break;
                    }
                }
                scratch.masks.push(found);
            }
            Step::Any(steps) => {
                let (mut found, mut left) = (scratch.take(), scratch.take());
                left.copy(within);
                out.clear();
                for step in steps {
                    self.step(step, block, &left, &mut found, run, scratch);
                    out.or(&found);
                    left.without(&found);
                    if left.is_empty() {
                        break;
                    }
                }
                scratch.masks.extend([found, left]);
            }
            Step::Not(inner) => {
                self.step(inner, block, within, out, Run { hopeful: !run.hopeful, ..run }, scratch);
                out.complement(within);
            }
            Step::Leaf(number) => self.leaf(*number, block, within, out, run, scratch),
        }
    }

    fn leaf(&self, number: usize, block: usize, within: &Mask, out: &mut Mask, run: Run, scratch: &mut Scratch) {
        let constant = |out: &mut Mask, holds: bool| if holds { out.copy(within) } else { out.clear() };
        if number >= run.limit {
            return constant(out, run.hopeful);
        }
        match &self.leaves[number] {
            Bound::Open => constant(out, run.hopeful),
            Bound::Constant(holds) => constant(out, *holds),
            Bound::Coded(coded) => coded.ask(block, within, out),
            Bound::Either(first, second) => {
                let (mut has, mut rest) = (scratch.take(), scratch.take());
                first.present(block, within, &mut has);
                rest.copy(within);
                rest.without(&has);
                first.ask(block, &has, out);
                second.ask(block, &rest, &mut has);
                out.or(&has);
                scratch.masks.extend([has, rest]);
            }
            Bound::Events { blocks, window, least, negated, .. } => {
                match blocks.get(block).and_then(Option::as_ref) {
                    // "At least none" holds of everybody.
                    _ if *least == 0 => out.copy(within),
                    Some(events) => at_least(events, *window, *least, within, out, &mut scratch.counts),
                    None => out.clear(),
                }
                if *negated {
                    out.complement(within);
                }
                self.unsure(block, within, out, run.hopeful);
            }
        }
    }

    /// People whose events are not known as a whole.
    fn unsure(&self, block: usize, within: &Mask, out: &mut Mask, hopeful: bool) {
        if self.torn.is_empty() {
            return;
        }
        let from = (block * ROWS) as u32;
        for row in self.torn.range(from..=from + (ROWS - 1) as u32) {
            let row = row as u16;
            if within.get(row) {
                out.set(row, hopeful);
            }
        }
    }

    // -- the order ---------------------------------------------------------------------------------------------------

    fn program(&self) -> Step {
        let sample = self.people.iter().position(|people| !people.is_empty()).map(|block| {
            let mut rows = Mask::none();
            rows.words_mut()[..SAMPLE_WORDS].copy_from_slice(&self.people[block].words()[..SAMPLE_WORDS]);
            (block, rows)
        });
        let mut scratch = Scratch::default();
        let mut out = Mask::none();
        let shares: Vec<f64> = (0..self.leaves.len())
            .map(|number| {
                let Some((block, rows)) = sample.as_ref().filter(|(_, rows)| !rows.is_empty()) else { return 0.5 };
                self.leaf(number, *block, rows, &mut out, Run { hopeful: true, limit: usize::MAX }, &mut scratch);
                out.count() as f64 / rows.count() as f64
            })
            .collect();
        self.ordered(&self.rule.root, &shares).0
    }

    /// (the step, what it costs, the share of rows for which it holds).
    fn ordered(&self, node: &Node, shares: &[f64]) -> (Step, f64, f64) {
        match node {
            Node::Leaf(number) => (Step::Leaf(*number), self.leaves[*number].cost(), shares[*number]),
            Node::Not(inner) => {
                let (step, cost, share) = self.ordered(inner, shares);
                (Step::Not(Box::new(step)), cost, 1.0 - share)
            }
            Node::All(nodes) | Node::Any(nodes) => {
                let all = matches!(node, Node::All(_));
                // For one kind of group a row is settled when a member does not hold, for the other when it does.
                let settled = |share: f64| if all { 1.0 - share } else { share };
                let mut members: Vec<_> = nodes.iter().map(|node| self.ordered(node, shares)).collect();
                let rank = |cost: f64, share: f64| cost / settled(share).max(1e-6);
                members.sort_by(|a, b| rank(a.1, a.2).total_cmp(&rank(b.1, b.2)));
                let (mut cost, mut left) = (0.0, 1.0);
                for (_, each, share) in &members {
                    cost += each * left;
                    left *= 1.0 - settled(*share);
                }
                let steps = members.into_iter().map(|(step, ..)| step).collect();
                if all { (Step::All(steps), cost, left) } else { (Step::Any(steps), cost, 1.0 - left) }
            }
        }
    }

    // -- one person --------------------------------------------------------------------------------------------------

    /// The tree with its truths as JSON, of a row that was found by name.
    pub fn explain(&self, row: u32) -> Option<String> {
        let (block, at) = place(row);
        if !self.people.get(block)?.get(at) {
            return None;
        }
        Some(explain(&self.rule, self.now_ms, |leaf| self.seen(leaf, row)))
    }

    fn seen(&self, number: usize, row: u32) -> Seen {
        let (block, at) = place(row);
        let value = |observed: Option<&str>, truth: bool| Seen {
            truth: Some(truth),
            observed: Observed::Value(observed.map(str::to_owned)),
            turning_ms: None,
        };
        match (&self.leaves[number], self.rule.leaves[number].kind) {
            (Bound::Coded(coded), _) => match coded.seen(block, at) {
                Some((observed, truth)) => value(observed, truth),
                None => Seen::unknown(),
            },
            (Bound::Either(first, second), _) => {
                let coded = if first.code(block, at) == 0 { second } else { first };
                match coded.seen(block, at) {
                    Some((observed, truth)) => value(observed, truth),
                    None => Seen::unknown(),
                }
            }
            (Bound::Constant(truth), LeafKind::Profile(_)) => value(None, *truth),
            (Bound::Events { .. }, LeafKind::Event(leaf)) => {
                self.seen_events(number, &self.rule.event_leaves[leaf], row)
            }
            _ => Seen::unknown(),
        }
    }

    fn seen_events(&self, number: usize, leaf: &EventLeaf, row: u32) -> Seen {
        let (block, at) = place(row);
        if self.torn.contains(row) {
            return Seen::unknown();
        }
        let Bound::Events { blocks, window, counted, .. } = &self.leaves[number] else { return Seen::unknown() };
        let Some(events) = blocks.get(block).and_then(Option::as_ref) else {
            return Seen::of_events(leaf, 0, None, |_| None);
        };
        let last = events.last.get(at);
        let ms_of = |second: u32| i64::from(second) * SECOND_MS;
        let ms_of_day = |day: u16| i64::from(day) * DAY_MS;
        match *window {
            Window::FromSecond(_) if leaf.counts && !counted => Seen::unknown(),
            Window::FromSecond(from) if leaf.counts => {
                let seconds = events.recent_since(at, from);
                Seen::of_events(leaf, seconds.len() as u32, seconds.first().map(|&second| ms_of(second)), |nth| {
                    seconds.get(nth as usize).map(|&second| ms_of(second))
                })
            }
            Window::FromSecond(from) => {
                let held = Some(last).filter(|&last| last >= from).map(ms_of);
                Seen::of_events(leaf, u32::from(held.is_some()), held, |_| held)
            }
            Window::Ever | Window::FromDay(_) => {
                let count = events.count_since(at, if let Window::FromDay(day) = *window { day } else { 1 });
                let held = (count > 0).then(|| ms_of(last));
                Seen::of_events(leaf, count, held, |nth| events.nth_day(at, nth).map(ms_of_day))
            }
        }
    }
}

impl Bound {
    /// Bytes a row, roughly: what is read is what takes time.
    fn cost(&self) -> f64 {
        match self {
            Self::Open | Self::Constant(_) => 0.1,
            Self::Coded(coded) => coded.cost(),
            Self::Either(first, second) => 0.5 + first.cost() + second.cost(),
            Self::Events { window: Window::FromSecond(_), least: 2.., .. } => 3.0,
            Self::Events { least: 2..=LEVELS, .. } => 2.0,
            Self::Events { least: 0..=1, .. } => 4.0,
            Self::Events { .. } => 6.0,
        }
    }
}

// -- traits ----------------------------------------------------------------------------------------------------------

fn bind_profile(state: &State, rule: &Rule, leaf: &ProfileLeaf) -> Bound {
    match leaf {
        ProfileLeaf::Trait { slot, test } => {
            let name = &rule.traits[*slot];
            let column = state.traits.columns.get(name);
            let coded = match column {
                Some(column) => match Coded::of_test(column, test) {
                    Some(coded) => Some(coded),
                    None => return Bound::Open,
                },
                None if state.traits.overflowed => return Bound::Open,
                None => None,
            };
            if name == "email" {
                return match (coded, Coded::of_test(&state.emails, test)) {
                    (_, None) => Bound::Open,
                    (Some(first), Some(second)) => Bound::Either(first, second),
                    (None, Some(second)) => Bound::Coded(second),
                };
            }
            coded.map_or_else(|| Bound::Constant(test.holds(None)), Bound::Coded)
        }
        ProfileLeaf::Lifecycle(stages) => {
            let holds = |value: Option<Raw<'_>>| {
                value.and_then(Raw::string).is_some_and(|found| stages.iter().any(|wanted| *wanted == found))
            };
            Coded::new(&state.lifecycles, holds).map_or(Bound::Open, Bound::Coded)
        }
    }
}

impl Coded {
    fn of_test(column: &TraitColumn, test: &Test) -> Option<Self> {
        if column.dictionary.is_none() && !matches!(test, Test::Exists | Test::NotSet) {
            return None;
        }
        if column.dictionary.is_none() {
            let table = vec![matches!(test, Test::NotSet), matches!(test, Test::Exists)];
            return Some(Self::of_table(column, table));
        }
        Self::new(column, |value| test.holds(value))
    }

    fn new(column: &TraitColumn, holds: impl Fn(Option<Raw<'_>>) -> bool) -> Option<Self> {
        let dictionary = column.dictionary.as_ref()?;
        let mut table = Vec::with_capacity(dictionary.values().len() + 1);
        table.push(holds(None));
        table.extend(dictionary.values().iter().map(|value| holds(Some(Raw::trusted(value)))));
        Some(Self::of_table(column, table))
    }

    fn of_table(column: &TraitColumn, table: Vec<bool>) -> Self {
        let holding = table.iter().filter(|&&holds| holds).count();
        let negated = holding > 4 && table.len() - holding <= 4;
        let codes: Vec<u16> =
            (0..table.len()).filter(|&code| table[code] != negated).take(5).map(|code| code as u16).collect();
        let few = (codes.len() <= 4).then(|| {
            let mut four = [codes.first().copied().unwrap_or(0); 4];
            four[..codes.len()].copy_from_slice(&codes);
            (four, codes.len())
        });
        Self { blocks: column.blocks.clone(), dictionary: column.dictionary.clone(), table, few, negated }
    }

    fn block(&self, block: usize) -> Option<&Codes> {
        self.blocks.get(block).and_then(Option::as_deref)
    }

    fn code(&self, block: usize, row: u16) -> u16 {
        self.block(block).map_or(0, |codes| codes.get(row))
    }

    fn ask(&self, block: usize, within: &Mask, out: &mut Mask) {
        match (self.block(block), self.few) {
            (None, _) if self.table[0] => out.copy(within),
            (Some(_), Some((_, 0))) if self.negated => out.copy(within),
            (None, _) | (Some(_), Some((_, 0))) => out.clear(),
            (Some(codes), Some((wanted, n))) => {
                match codes {
                    Codes::Narrow(column) => {
                        // A code that a narrow block cannot hold stands in none of its rows.
                        let fits = |code: &u16| u8::try_from(*code).ok();
                        match wanted.iter().find_map(fits) {
                            None => out.clear(),
                            Some(_) if n == 1 => mask::ask(column, Ask::Equal(wanted[0] as u8), within, out),
                            Some(one) => {
                                let four = wanted.map(|code| fits(&code).unwrap_or(one));
                                mask::ask(column, Ask::Among(four), within, out);
                            }
                        }
                    }
                    Codes::Wide(column) if n == 1 => mask::ask(column, Ask::Equal(wanted[0]), within, out),
                    Codes::Wide(column) => mask::ask(column, Ask::Among(wanted), within, out),
                    Codes::Present(present) => {
                        out.copy(within);
                        if wanted[..n].contains(&1) {
                            if !wanted[..n].contains(&0) {
                                out.and(present);
                            }
                        } else {
                            out.without(present);
                        }
                    }
                }
                if self.negated {
                    out.complement(within);
                }
            }
            (Some(Codes::Narrow(column)), None) => mask::look_up(column, &self.table, within, out),
            (Some(Codes::Wide(column)), None) => mask::look_up(column, &self.table, within, out),
            (Some(Codes::Present(_)), None) => unreachable!("two codes are few"),
        }
    }

    /// The rows of `within` that have a value.
    fn present(&self, block: usize, within: &Mask, out: &mut Mask) {
        match self.block(block) {
            None => out.clear(),
            Some(Codes::Narrow(column)) => mask::ask(column, Ask::AtLeast(1), within, out),
            Some(Codes::Wide(column)) => mask::ask(column, Ask::AtLeast(1), within, out),
            Some(Codes::Present(present)) => {
                out.copy(within);
                out.and(present);
            }
        }
    }

    /// (the value, its truth); None when the value is not kept.
    fn seen(&self, block: usize, row: u16) -> Option<(Option<&str>, bool)> {
        let code = self.code(block, row);
        let value = match &self.dictionary {
            Some(dictionary) => dictionary.value(code),
            None if code == 0 => None,
            None => return None,
        };
        Some((value, self.table.get(usize::from(code)).copied()?))
    }

    fn cost(&self) -> f64 {
        let wide = self.blocks.iter().flatten().next().is_some_and(|codes| matches!(**codes, Codes::Wide(_)));
        let width = if wide { 2.0 } else { 1.0 };
        if self.few.is_some() { width } else { width + 4.0 }
    }
}

// -- events ----------------------------------------------------------------------------------------------------------

fn bind_event(state: &State, leaf: &EventLeaf, now_ms: i64) -> Bound {
    let least = leaf.compare.turns_at();
    let negated = matches!(leaf.compare, Compare::AtMost(_));
    let track = match &leaf.stream {
        None => match state.track_of(leaf.event_type()) {
            Some(track) => track,
            None if state.tracks_overflowed => return Bound::Open,
            None => &Track::default(),
        },
        Some(condition) => match state.stream(leaf.event_type(), condition) {
            Some(track) => track,
            None => return Bound::Open,
        },
    };
    let window = match leaf.since {
        Since::Ever => Window::Ever,
        Since::Days(_) => Window::FromDay(day_of(second_of(leaf.since.instant(now_ms).unwrap_or_default()))),
        Since::Span(_) => Window::FromSecond(second_of(leaf.since.instant(now_ms).unwrap_or_default())),
    };
    let counted = !matches!(window, Window::FromSecond(from) if from < track.recent_from);
    // Whether there was one at all is known of any window.
    if !counted && least > 1 {
        return Bound::Open;
    }
    Bound::Events { blocks: track.blocks.clone(), window, counted, least, negated }
}

/// out = the rows of `within` that have at least so many events in the window.
fn at_least(events: &track::Block, window: Window, least: u32, within: &Mask, out: &mut Mask, counts: &mut Vec<u32>) {
    let (day, second) = match window {
        Window::Ever => (1, 1),
        Window::FromDay(day) => (day, u32::from(day).saturating_mul(DAY_S)),
        Window::FromSecond(second) => (day_of(second), second),
    };
    match (window, least) {
        (_, 0 | 1) => mask::ask(&events.last, Ask::AtLeast(second), within, out),
        (Window::FromSecond(_), _) => {
            counts.clear();
            counts.resize(ROWS, 0);
            out.clear();
            for event in events.recent.iter().filter(|event| event.second() >= second) {
                let count = &mut counts[usize::from(event.row)];
                *count += 1;
                if *count >= least && within.get(event.row) {
                    out.set(event.row, true);
                }
            }
        }
        (_, 2..=LEVELS) => mask::ask(&events.days[least as usize - 2], Ask::AtLeast(day), within, out),
        _ => {
            // Who has that many has filled all levels: few, and only those are looked at one by one.
            mask::ask(&events.days[track::DAYS - 1], Ask::AtLeast(day), within, out);
            let filled = out.clone();
            out.keep(&filled, |row| events.count_since(row, day) >= least);
        }
    }
}

// -- the answer ------------------------------------------------------------------------------------------------------

impl Answer {
    /// A COPY of external ids, sorted.
    pub fn members(&self) -> Vec<u8> {
        self.copy(&self.members)
    }

    /// The same of those whom Postgres must decide.
    pub fn undecided(&self) -> Vec<u8> {
        self.copy(&self.undecided)
    }

    fn copy(&self, masks: &[Mask]) -> Vec<u8> {
        let mut found: Vec<(u128, &str)> = Vec::with_capacity(masks.iter().map(Mask::count).sum());
        for (mask, names) in masks.iter().zip(&self.names) {
            found.extend(mask.rows().map(|row| {
                let name = names.name(usize::from(row));
                (prefix(name), name)
            }));
        }
        found.par_sort_unstable();
        let mut writer = Writer::with_capacity(found.iter().map(|(_, name)| name.len() + 6).sum());
        for (_, name) in found {
            writer.row(1);
            writer.bytes(name.as_bytes());
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loops_agree_with_a_plain_look() {
        let mut column = super::super::column::Column::<u32>::dense();
        for row in 0..=u16::MAX {
            column.set(row, u32::from(row).wrapping_mul(2_654_435_761));
        }
        let mut within = Mask::none();
        for row in (0..=u16::MAX).step_by(3) {
            within.set(row, true);
        }
        let mut out = Mask::none();
        mask::ask(&column, Ask::AtLeast(1 << 31), &within, &mut out);
        let expected: Vec<u16> = within.rows().filter(|&row| column.get(row) >= 1 << 31).collect();
        assert_eq!(out.rows().collect::<Vec<_>>(), expected);
        assert_eq!(out.count(), expected.len());
    }
}
