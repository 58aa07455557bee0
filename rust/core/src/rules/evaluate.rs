//! One evaluation: both streams pass by once, in any order and cut; what is kept are a few counters per person.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;

use super::{LeafKind, Node, Observed, ProfileLeaf, Rule, Seen, Split, Where, explain};
use crate::json::Raw;
use crate::pgcopy::{Reader, Row, Writer};
use crate::{Broken, Id, rules::NODES_MAX};

const EVENT_COLUMNS: usize = 4;
const PROFILE_COLUMNS: usize = 4;
const DAY_COLUMNS: usize = 6;

pub struct Evaluation {
    events: Reader,
    profiles: Reader,
    days: Reader,
    state: State,
    now_ms: i64,
}

/// One leaf of a preview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub path: String,
    /// People for whom this leaf holds, whatever the others say.
    pub alone: usize,
    /// People who are not ruled out by this leaf and those before it.
    pub remaining: usize,
}

struct State {
    rule: Arc<Rule>,
    /// The instant from which each event leaf counts.
    since: Vec<i64>,
    /// The event leaves that ask for a type.
    types: Vec<(String, Vec<usize>)>,
    people: People,
    /// Events by person and event leaf.
    counts: Vec<u32>,
    /// Truth of the profile leaves by person.
    bits: Vec<u64>,
    /// Whether a profile row was fed.
    known: Vec<bool>,
    /// For an explanation alone: the counted events, and what the profile leaves read, by person and leaf.
    instants: Option<HashMap<(usize, usize), Vec<i64>>>,
    values: HashMap<(usize, usize), String>,
}

pub(crate) type Found<'a> = [Option<Raw<'a>>; NODES_MAX];

impl Evaluation {
    /// `explained`: keep what [`Self::explain`] needs, which is much more; for the rows of one person.
    pub fn new(rule: Arc<Rule>, now_ms: i64, explained: bool) -> Self {
        let since = rule.event_leaves.iter().map(|leaf| leaf.since.instant(now_ms).unwrap_or(i64::MIN)).collect();
        let types = rule.event_types().into_iter().map(|name| {
            let asking =
                rule.event_leaves.iter().enumerate().filter(|(_, leaf)| leaf.types.iter().any(|known| known == name));
            (name.to_owned(), asking.map(|(i, _)| i).collect())
        });
        let types = types.collect();
        let state = State {
            rule,
            since,
            types,
            people: People::default(),
            counts: Vec::new(),
            bits: Vec::new(),
            known: Vec::new(),
            instants: explained.then(HashMap::new),
            values: HashMap::new(),
        };
        Self {
            events: Reader::new(EVENT_COLUMNS),
            profiles: Reader::new(PROFILE_COLUMNS),
            days: Reader::new(DAY_COLUMNS),
            state,
            now_ms,
        }
    }

    /// person text, event_type text, occurred_at timestamptz, properties jsonb.
    pub fn feed_events(&mut self, chunk: &[u8]) -> Result<(), Broken> {
        self.events.feed(chunk, |row| self.state.event(row))
    }

    /// external_id text, email text, traits jsonb, lifecycle text.
    pub fn feed_profiles(&mut self, chunk: &[u8]) -> Result<(), Broken> {
        self.profiles.feed(chunk, |row| self.state.profile(row))
    }

    /// person text, event_type text, day date, count int4, first timestamptz, last timestamptz: events that were rolled
    /// up. Their properties are gone, so no condition holds for them, whatever it is.
    pub fn feed_days(&mut self, chunk: &[u8]) -> Result<(), Broken> {
        self.days.feed(chunk, |row| self.state.day(row))
    }

    /// A stream that was cut would make a smaller audience, so it makes none.
    fn finished(&self) -> Result<&State, Broken> {
        self.events.finish()?;
        self.profiles.finish()?;
        self.days.finish()?;
        Ok(&self.state)
    }

    pub fn count(&self) -> Result<usize, Broken> {
        let state = self.finished()?;
        Ok((0..state.people.len()).filter(|&person| state.holds(person)).count())
    }

    /// How many hold the rule; and for each leaf as it is written, how many hold it alone, and how many are left.
    pub fn preview(&self) -> Result<(usize, Vec<Step>), Broken> {
        let state = self.finished()?;
        let leaves = &state.rule.leaves;
        let mut steps: Vec<Step> =
            leaves.iter().map(|leaf| Step { path: leaf.path.clone(), alone: 0, remaining: 0 }).collect();
        let mut count = 0;
        for person in (0..state.people.len()).filter(|&person| state.is_known(person)) {
            for (number, step) in steps.iter_mut().enumerate() {
                step.alone += usize::from(state.leaf(person, number));
                // The later ones may still turn out either way.
                step.remaining += usize::from(state.may_hold(&state.rule.root, person, number + 1, true));
            }
            count += usize::from(state.holds(person));
        }
        Ok((count, steps))
    }

    /// A COPY of external ids, sorted.
    pub fn members(&self) -> Result<Vec<u8>, Broken> {
        let members = self.sorted()?;
        let mut writer = Writer::with_capacity(members.iter().map(|name| name.len() + 6).sum());
        for name in members {
            writer.row(1);
            writer.bytes(name.as_bytes());
        }
        Ok(writer.finish())
    }

    /// A page of the sorted external ids.
    pub fn page(&self, offset: usize, size: usize) -> Result<Vec<&str>, Broken> {
        Ok(self.sorted()?.into_iter().skip(offset).take(size).collect())
    }

    fn sorted(&self) -> Result<Vec<&str>, Broken> {
        let state = self.finished()?;
        let mut members: Vec<(u128, &str)> = (0..state.people.len())
            .filter(|&person| state.holds(person))
            .map(|person| {
                let name = state.people.name(person);
                (prefix(name), name)
            })
            .collect();
        members.sort_unstable();
        Ok(members.into_iter().map(|(_, name)| name).collect())
    }

    /// Who holds, cut by shard.
    pub fn split(&self, project: &Id) -> Result<Split, Broken> {
        let state = self.finished()?;
        let mut split = Split::new();
        for person in (0..state.people.len()).filter(|&person| state.holds(person)) {
            split.push(project, state.people.name(person));
        }
        Ok(split)
    }

    pub fn contains(&self, external_id: &str) -> Result<bool, Broken> {
        let state = self.finished()?;
        Ok(state.people.find(external_id).is_some_and(|person| state.holds(person)))
    }

    /// The tree with its truths as JSON; None for somebody who is not there, or when nothing was kept for it.
    pub fn explain(&self, external_id: &str) -> Result<Option<String>, Broken> {
        let state = self.finished()?;
        let person = state.people.find(external_id).filter(|&person| state.known.get(person) == Some(&true));
        let explained = person.filter(|_| state.instants.is_some());
        Ok(explained.map(|person| explain(&state.rule, self.now_ms, |leaf| state.seen(person, leaf))))
    }
}

/// The first 16 bytes as a number: most names are told apart without a look at memory far away.
pub(crate) fn prefix(name: &str) -> u128 {
    let mut bytes = [0; 16];
    let length = name.len().min(16);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    u128::from_be_bytes(bytes)
}

impl State {
    fn event(&mut self, row: &Row<'_>) -> Result<(), Broken> {
        let (Some(person), Some(event_type), Some(at_ms)) = (row.text(0)?, row.bytes(1), row.instant(2)?) else {
            return Ok(());
        };
        let Some((_, leaves)) = self.types.iter().find(|(name, _)| name.as_bytes() == event_type) else {
            return Ok(());
        };
        let rule = &self.rule;
        let mut found: Option<Found<'_>> = None;
        let mut slot = None;
        for &leaf in leaves {
            if at_ms < self.since[leaf] {
                continue;
            }
            if let Some(condition) = &rule.event_leaves[leaf].condition {
                if found.is_none() {
                    found = Some(find(&rule.properties, row.jsonb(3)?));
                }
                if !found.as_ref().is_some_and(|found| condition.holds(found)) {
                    continue;
                }
            }
            let person = *slot.get_or_insert_with(|| self.people.slot(person));
            let width = rule.event_leaves.len();
            if self.counts.len() < self.people.len() * width {
                self.counts.resize(self.people.len() * width, 0);
            }
            let count = &mut self.counts[person * width + leaf];
            *count = count.saturating_add(1);
            if let Some(instants) = &mut self.instants {
                instants.entry((person, leaf)).or_default().push(at_ms);
            }
        }
        Ok(())
    }

    /// A day lies in a window when its last event does: windows of days begin with one, and whatever was rolled up is
    /// too old for any other that counts.
    fn day(&mut self, row: &Row<'_>) -> Result<(), Broken> {
        let (Some(person), Some(event_type), Some(events), Some(last_ms)) =
            (row.text(0)?, row.bytes(1), row.int(3)?, row.instant(5)?)
        else {
            return Ok(());
        };
        let events = u32::try_from(events).map_err(|_| Broken("a count below zero"))?;
        let Some((_, leaves)) = self.types.iter().find(|(name, _)| name.as_bytes() == event_type) else {
            return Ok(());
        };
        let width = self.rule.event_leaves.len();
        for &leaf in leaves {
            if last_ms < self.since[leaf] || self.rule.event_leaves[leaf].condition.is_some() {
                continue;
            }
            let person = self.people.slot(person);
            if self.counts.len() < self.people.len() * width {
                self.counts.resize(self.people.len() * width, 0);
            }
            let count = &mut self.counts[person * width + leaf];
            *count = count.saturating_add(events);
            if let Some(instants) = &mut self.instants {
                instants.entry((person, leaf)).or_default().extend(std::iter::repeat_n(last_ms, events as usize));
            }
        }
        Ok(())
    }

    fn profile(&mut self, row: &Row<'_>) -> Result<(), Broken> {
        let Some(name) = row.text(0)? else { return Ok(()) };
        let rule = &self.rule;
        let mut found = find(&rule.traits, row.jsonb(2)?);
        // C29: "email" is the trait of this name, else the user's own field. A scalar of the row has no JSON text yet.
        let mut email = String::new();
        if let (Some(slot), Some(own)) = (rule.traits.iter().position(|name| name == "email"), row.text(1)?)
            && found[slot].is_none_or(Raw::is_null)
        {
            crate::json::quote(&mut email, own);
            found[slot] = Some(Raw::trusted(&email));
        }
        let lifecycle = row.text(3)?;
        let mut bits = 0;
        for (i, leaf) in rule.profile_leaves.iter().enumerate() {
            let holds = match leaf {
                ProfileLeaf::Trait { slot, test } => test.holds(found[*slot]),
                ProfileLeaf::Lifecycle(stages) => {
                    lifecycle.is_some_and(|stage| stages.iter().any(|wanted| wanted == stage))
                }
            };
            bits |= u64::from(holds) << i;
        }
        let person = self.people.slot(name);
        if self.instants.is_some() {
            for (i, leaf) in rule.profile_leaves.iter().enumerate() {
                let value = match leaf {
                    ProfileLeaf::Trait { slot, .. } => {
                        found[*slot].filter(|v| !v.is_null()).map(|v| v.text().to_owned())
                    }
                    ProfileLeaf::Lifecycle(_) => lifecycle.map(|stage| format!("\"{stage}\"")),
                };
                self.values.extend(value.map(|value| ((person, i), value)));
            }
        }
        if self.bits.len() <= person {
            self.bits.resize(person + 1, 0);
            self.known.resize(person + 1, false);
        }
        self.bits[person] = bits;
        self.known[person] = true;
        Ok(())
    }

    fn is_known(&self, person: usize) -> bool {
        self.known.get(person).copied().unwrap_or(false)
    }

    fn holds(&self, person: usize) -> bool {
        self.is_known(person) && self.may_hold(&self.rule.root, person, usize::MAX, true)
    }

    /// Whether the node holds when the leaves from `limit` on are all as one would have them (`hopeful`), or not.
    fn may_hold(&self, node: &Node, person: usize, limit: usize, hopeful: bool) -> bool {
        match node {
            Node::All(nodes) => nodes.iter().all(|node| self.may_hold(node, person, limit, hopeful)),
            Node::Any(nodes) => nodes.iter().any(|node| self.may_hold(node, person, limit, hopeful)),
            Node::Not(node) => !self.may_hold(node, person, limit, !hopeful),
            Node::Leaf(leaf) if *leaf >= limit => hopeful,
            Node::Leaf(leaf) => self.leaf(person, *leaf),
        }
    }

    fn leaf(&self, person: usize, leaf: usize) -> bool {
        match self.rule.leaves[leaf].kind {
            LeafKind::Profile(leaf) => self.bits[person] >> leaf & 1 == 1,
            LeafKind::Event(leaf) => {
                let count = self.counts.get(person * self.rule.event_leaves.len() + leaf).copied().unwrap_or(0);
                self.rule.event_leaves[leaf].compare.holds(count)
            }
        }
    }

    fn seen(&self, person: usize, leaf: usize) -> Seen {
        match self.rule.leaves[leaf].kind {
            LeafKind::Profile(leaf) => Seen {
                truth: Some(self.bits[person] >> leaf & 1 == 1),
                observed: Observed::Value(self.values.get(&(person, leaf)).cloned()),
                turning_ms: None,
            },
            LeafKind::Event(leaf) => {
                let asked = &self.rule.event_leaves[leaf];
                let mut instants =
                    self.instants.as_ref().and_then(|all| all.get(&(person, leaf))).cloned().unwrap_or_default();
                instants.sort_unstable_by(|a, b| b.cmp(a));
                let count = instants.len() as u32;
                Seen::of_events(asked, count, instants.first().copied(), |nth| instants.get(nth as usize).copied())
            }
        }
    }
}

impl Where {
    pub(crate) fn holds(&self, found: &Found<'_>) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.holds(found)),
            Self::Any(nodes) => nodes.iter().any(|node| node.holds(found)),
            Self::Not(node) => !node.holds(found),
            Self::Test { slot, test } => test.holds(found[*slot]),
        }
    }
}

/// The wanted members of a JSON object, in one walk.
pub(crate) fn find<'a>(names: &[String], object: Option<&'a str>) -> Found<'a> {
    let mut found = [None; NODES_MAX];
    if let Some(object) = object.filter(|_| !names.is_empty()) {
        for (key, value) in Raw::trusted(object).members() {
            if let Some(slot) = names.iter().position(|name| *name == key) {
                found[slot] = Some(value);
            }
        }
    }
    found
}

/// Names to dense numbers: all names in one string, found by a keyed hash, because clients choose them.
#[derive(Default)]
struct People {
    names: String,
    ends: Vec<usize>,
    table: HashTable<u32>,
    hasher: RandomState,
}

impl People {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn name(&self, person: usize) -> &str {
        let from = if person == 0 { 0 } else { self.ends[person - 1] };
        &self.names[from..self.ends[person]]
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.table
            .find(self.hasher.hash_one(name), |&person| self.name(person as usize) == name)
            .map(|&person| person as usize)
    }

    fn slot(&mut self, name: &str) -> usize {
        if let Some(person) = self.find(name) {
            return person;
        }
        let person = self.ends.len();
        self.names.push_str(name);
        self.ends.push(self.names.len());
        let Self { names, ends, table, hasher } = self;
        let hash_of = |&person: &u32| {
            let person = person as usize;
            let from = if person == 0 { 0 } else { ends[person - 1] };
            hasher.hash_one(&names[from..ends[person]])
        };
        table.insert_unique(hash_of(&(person as u32)), person as u32, hash_of);
        person
    }
}
