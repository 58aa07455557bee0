//! The columnar audience index: one project, or one part of it by user, in memory (design 5).
//!
//! People are rows; [`names`] says who is which. What they are lies in [`traits`], what they did in [`track`], both cut
//! into blocks of 65,536 rows that are shared by reference: [`view`] binds a rule to the blocks of an instant and walks
//! them without a lock, while an update copies the blocks that somebody still holds and changes the copies.
//!
//! The index follows the stores, not the log: an event that the storer found to be a duplicate or bad is told in `skips`
//! and left out here too, and takeovers mean what the store of profiles makes of them. An event counts for whoever its
//! person has become, so a row holds its own events and those of everybody who leads to it; taking one of those away
//! again (a deletion) cannot be undone in a last-seen, so the row is *torn* from then on: Postgres answers for it.
//!
//! Part of an index is who it owns by hash of the name. A person of another part who was taken over by one of ours is
//! known here by name alone, and what she did before is not: ours is torn as well.

mod column;
mod mask;
mod names;
mod simd;
mod snapshot;
mod stream;
mod track;
mod traits;
mod view;

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::json::{Raw, quote};
use crate::pgcopy::{Reader, Row};
use crate::record::{self, Change, Event, Frame, Record};
use crate::rules::{self, Rule};
use crate::{Broken, Id, Refused};
use mask::Mask;
use names::{Names, place};
use stream::Stream;
use track::{Track, day_of, second_of};
use traits::{TraitColumn, Traits};

pub use view::{Answer, Funnel, View};

const PEOPLE_COLUMNS: usize = 5;
const EVENT_COLUMNS: usize = 4;
const DAY_COLUMNS: usize = 6;
/// As many takeovers as the stores follow.
const CHAIN_MAX: usize = 16;
/// Rows are numbered by 32 bits, and one process holds no more anyway.
const PEOPLE_MAX: usize = 1 << 28;

pub struct Index {
    state: State,
    people: Reader,
    events: Reader,
    days: Reader,
    fill: Reader,
}

/// What a view is bound to.
pub(crate) struct State {
    part: u32,
    parts: u32,
    /// The last frames whose events and whose profile changes are in.
    events_position: i64,
    people_position: i64,
    /// Nothing was read from the log yet: who leads to us from another part is still told with all events.
    loading: bool,
    names: Names,
    /// Rows that are members of the project: there is a profile, nobody has taken it over, and it is ours.
    people: Vec<Arc<Mask>>,
    /// Rows that have a profile.
    present: Vec<Arc<Mask>>,
    /// Who was taken over, and by whom.
    merged: HashMap<u32, u32>,
    torn: Arc<RoaringBitmap>,
    /// Erased rows, which are nobody's.
    dead: RoaringBitmap,
    traits: Traits,
    emails: TraitColumn,
    lifecycles: TraitColumn,
    tracks: Vec<Track>,
    /// Where the track of a type lies, by its canonical name.
    types: HashMap<String, usize>,
    tracks_overflowed: bool,
    streams: HashMap<String, Stream>,
}

/// A frame of the log whose checksum was found right, without the index and its lock.
pub struct Checked<'a> {
    frame: Frame<'a>,
    position: i64,
    /// The ordinals of the events that the storer left out, sorted.
    skips: &'a [usize],
}

impl<'a> Checked<'a> {
    pub fn new(frame: &'a [u8], position: i64, skips: &'a [usize]) -> Result<Self, Broken> {
        Ok(Self { frame: record::open(frame)?, position, skips })
    }
}

/// What one part of the index takes in memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub names: usize,
    pub table: usize,
    pub people: usize,
    pub traits: usize,
    pub events: usize,
    pub streams: usize,
}

impl Index {
    pub fn new(part: u32, parts: u32) -> Self {
        Self::of(State {
            part,
            parts: parts.max(1),
            events_position: 0,
            people_position: 0,
            loading: true,
            names: Names::default(),
            people: Vec::new(),
            present: Vec::new(),
            merged: HashMap::new(),
            torn: Arc::default(),
            dead: RoaringBitmap::new(),
            traits: Traits::default(),
            emails: TraitColumn::default(),
            lifecycles: TraitColumn::default(),
            tracks: Vec::new(),
            types: HashMap::new(),
            tracks_overflowed: false,
            streams: HashMap::new(),
        })
    }

    fn of(state: State) -> Self {
        Self {
            state,
            people: Reader::new(PEOPLE_COLUMNS),
            events: Reader::new(EVENT_COLUMNS),
            days: Reader::new(DAY_COLUMNS),
            fill: Reader::new(EVENT_COLUMNS),
        }
    }

    // -- from Postgres -----------------------------------------------------------------------------------------------

    /// external_id text, email text, traits jsonb, lifecycle text, merged_into text. Comes first when there are parts.
    pub fn load_people(&mut self, chunk: &[u8]) -> Result<(), Broken> {
        let state = &mut self.state;
        self.people.feed(chunk, |row| state.load_person(row))
    }

    /// person text, event_type text, occurred_at timestamptz, properties jsonb.
    pub fn load_events(&mut self, chunk: &[u8]) -> Result<(), Broken> {
        let state = &mut self.state;
        self.events.feed(chunk, |row| {
            let (Some(person), Some(event_type), Some(at_ms)) = (row.text(0)?, row.text(1)?, row.instant(2)?) else {
                return Ok(());
            };
            if let Some(person) = state.row(person)
                && let Some(track) = state.track(event_type)
            {
                state.count(person, second_of(at_ms), track);
            }
            Ok(())
        })
    }

    /// person text, event_type text, day date, count int4, first timestamptz, last timestamptz.
    pub fn load_days(&mut self, chunk: &[u8]) -> Result<(), Broken> {
        let state = &mut self.state;
        self.days.feed(chunk, |row| {
            let (Some(person), Some(event_type), Some(count), Some(last_ms)) =
                (row.text(0)?, row.text(1)?, row.int(3)?, row.instant(5)?)
            else {
                return Ok(());
            };
            let count = u32::try_from(count).map_err(|_| Broken("a count below zero"))?;
            let last = second_of(last_ms);
            if let Some(person) = state.row(person)
                && let Some(track) = state.track(event_type)
            {
                for row in state.chain(person) {
                    state.tracks[track].day(row, day_of(last), count, last);
                }
            }
            Ok(())
        })
    }

    /// The streams have ended and are what the stores held at these positions of the log.
    pub fn loaded(&mut self, events: i64, people: i64) -> Result<(), Broken> {
        for reader in [&self.people, &self.events, &self.days] {
            reader.finish()?;
        }
        self.state.events_position = events;
        self.state.people_position = people;
        self.state.loading = false;
        self.state.tracks.iter_mut().for_each(Track::shrink);
        Ok(())
    }

    // -- from the log ------------------------------------------------------------------------------------------------

    /// One frame, in the order of the log; what was applied before is passed over.
    pub fn apply(&mut self, project: &Id, checked: Checked<'_>) -> Result<(), Broken> {
        let Checked { frame, position, skips } = checked;
        if position <= self.position() {
            return Ok(());
        }
        self.state.loading = false;
        let mut ordinal = 0;
        for record in frame.records {
            let (tenant, record) = record::read(record?)?;
            let ours = tenant.project == *project;
            match record {
                Record::Event(event) => {
                    if ours {
                        let counts = skips.binary_search(&ordinal).is_err();
                        self.state.event(&event, position, counts)?;
                    }
                    ordinal += 1;
                }
                Record::Change(change) if ours && position > self.state.people_position => {
                    self.state.change(&change)?;
                }
                Record::Change(_) => {}
            }
        }
        self.state.events_position = self.state.events_position.max(position);
        self.state.people_position = self.state.people_position.max(position);
        Ok(())
    }

    /// Which part of how many.
    pub fn part(&self) -> (u32, u32) {
        (self.state.part, self.state.parts)
    }

    /// Everything up to here is in.
    pub fn position(&self) -> i64 {
        self.state.events_position.min(self.state.people_position)
    }

    /// Forgets people whose events were erased in the store, under all names they had.
    pub fn erase(&mut self, names: &[&str]) {
        let rows: Vec<u32> = names.iter().filter_map(|name| self.state.names.find(name)).collect();
        for &row in &rows {
            self.state.remove(row);
        }
        for &row in &rows {
            self.state.erase(row);
        }
    }

    // -- counted streams ---------------------------------------------------------------------------------------------

    /// The counted streams that a rule asks for and that nobody has registered.
    pub fn streams_wanted(&self, rule: &Rule) -> Vec<String> {
        let mut wanted: Vec<String> = rule.event_leaves.iter().filter_map(stream::key_of).collect();
        wanted.retain(|key| !self.state.streams.contains_key(key));
        wanted.sort();
        wanted.dedup();
        wanted
    }

    /// From here on the log is kept for it; what was before comes by [`Self::load_stream`].
    pub fn register_stream(&mut self, key: &str) -> Result<(), Refused> {
        if !self.state.streams.contains_key(key) {
            if self.state.streams.len() >= stream::STREAMS_MAX {
                return Err(Refused::new("", format!("at most {} counted streams", stream::STREAMS_MAX)));
            }
            let stream = Stream::new(key, self.state.events_position)?;
            self.state.streams.insert(key.to_owned(), stream);
        }
        Ok(())
    }

    /// Also the way out of a load that failed: what was read of it is forgotten.
    pub fn unregister_stream(&mut self, key: &str) {
        self.state.streams.remove(key);
        self.fill = Reader::new(EVENT_COLUMNS);
    }

    /// Events of the stream's type: person text, event_type text, occurred_at timestamptz, properties jsonb.
    pub fn load_stream(&mut self, key: &str, chunk: &[u8]) -> Result<(), Broken> {
        let state = &mut self.state;
        let mut stream = state.streams.remove(key).ok_or(Broken("no such stream"))?;
        let fed = self.fill.feed(chunk, |row| {
            let (Some(person), Some(event_type), Some(at_ms)) = (row.text(0)?, row.text(1)?, row.instant(2)?) else {
                return Ok(());
            };
            if stream.matches(rules::canonical(event_type), row.jsonb(3)?.unwrap_or("{}"))
                && let Some(person) = state.row(person)
            {
                stream.load(state.chain(person), second_of(at_ms));
            }
            Ok(())
        });
        state.streams.insert(key.to_owned(), stream);
        fed
    }

    /// What was loaded is what the store held at this position, which is not before that of the registration.
    pub fn stream_loaded(&mut self, key: &str, position: i64) -> Result<(), Broken> {
        self.fill.finish()?;
        let state = &mut self.state;
        let mut stream = state.streams.remove(key).ok_or(Broken("no such stream"))?;
        let done = stream.loaded(position, |row| state.chain(row));
        state.streams.insert(key.to_owned(), stream);
        done
    }

    // -- asking ------------------------------------------------------------------------------------------------------

    pub fn bind(&self, rule: &Arc<Rule>, now_ms: i64) -> View {
        View::bind(&self.state, Arc::clone(rule), now_ms)
    }

    /// The row of whoever has this name, for [`View::explain`].
    pub fn find(&self, name: &str) -> Option<u32> {
        self.state.names.find(name)
    }

    /// People of the project.
    pub fn people(&self) -> usize {
        self.state.people.iter().map(|mask| mask.count()).sum()
    }

    pub fn memory(&self) -> Memory {
        let state = &self.state;
        let (names, table) = state.names.bytes();
        let masks = (state.people.len() + state.present.len()) * size_of::<[u64; mask::WORDS]>();
        let columns = state.traits.columns.values().chain([&state.emails, &state.lifecycles]);
        Memory {
            names,
            table,
            people: masks + state.merged.capacity() * 9 + state.torn.serialized_size(),
            traits: columns.map(TraitColumn::bytes).sum(),
            events: state.tracks.iter().map(Track::bytes).sum(),
            streams: state.streams.values().map(Stream::bytes).sum(),
        }
    }
}

impl State {
    fn owns(&self, name: &str) -> bool {
        self.parts == 1 || (xxhash_rust::xxh64::xxh64(name.as_bytes(), 0) % u64::from(self.parts)) as u32 == self.part
    }

    /// The row of a person whose events are ours to count: our own, or one who leads to us.
    fn row(&mut self, name: &str) -> Option<u32> {
        if self.owns(name) { self.slot(name) } else { self.names.find(name) }
    }

    fn slot(&mut self, name: &str) -> Option<u32> {
        if self.names.len() >= PEOPLE_MAX {
            return None;
        }
        let (row, fresh) = self.names.slot(name)?;
        if fresh && place(row).0 >= self.people.len() {
            self.people.push(Arc::new(Mask::none()));
            self.present.push(Arc::new(Mask::none()));
        }
        Some(row)
    }

    fn is_present(&self, row: u32) -> bool {
        let (block, at) = place(row);
        self.present[block].get(at)
    }

    fn set_present(&mut self, row: u32, present: bool) {
        let (block, at) = place(row);
        if self.present[block].get(at) != present {
            Arc::make_mut(&mut self.present[block]).set(at, present);
        }
        let member = present && !self.merged.contains_key(&row) && self.owns(self.names.name(row));
        if self.people[block].get(at) != member {
            Arc::make_mut(&mut self.people[block]).set(at, member);
        }
    }

    /// A row, and where its events count beside it.
    fn chain(&self, row: u32) -> impl Iterator<Item = u32> + use<> {
        let mut found = [row; CHAIN_MAX + 1];
        let mut length = 1;
        while length <= CHAIN_MAX
            && let Some(&next) = self.merged.get(&found[length - 1])
        {
            found[length] = next;
            length += 1;
        }
        found.into_iter().take(length)
    }

    fn track(&mut self, event_type: &str) -> Option<usize> {
        let name = rules::canonical(event_type);
        if let Some(&track) = self.types.get(name) {
            return Some(track);
        }
        if self.tracks.len() >= track::TRACKS_MAX {
            self.tracks_overflowed = true;
            return None;
        }
        self.tracks.push(Track::default());
        self.types.insert(name.to_owned(), self.tracks.len() - 1);
        Some(self.tracks.len() - 1)
    }

    fn track_of(&self, name: &str) -> Option<&Track> {
        self.types.get(name).map(|&track| &self.tracks[track])
    }

    fn count(&mut self, person: u32, second: u32, track: usize) {
        for row in self.chain(person) {
            self.tracks[track].event(row, second);
        }
    }

    fn stream(&self, event_type: &str, condition: &str) -> Option<&Track> {
        self.streams.get(&stream::key(event_type, condition)).and_then(Stream::track)
    }

    // -- people ------------------------------------------------------------------------------------------------------

    fn load_person(&mut self, fields: &Row<'_>) -> Result<(), Broken> {
        let Some(name) = fields.text(0)? else { return Ok(()) };
        let (email, traits, lifecycle, into) = (fields.text(1)?, fields.jsonb(2)?, fields.text(3)?, fields.text(4)?);
        if self.owns(name)
            && let Some(row) = self.slot(name)
        {
            self.set_present(row, true);
            self.email(row, email);
            if let Some(stage) = lifecycle {
                let mut quoted = String::new();
                quote(&mut quoted, stage);
                self.lifecycles.set(row, Some(&quoted));
            }
            self.traits_of(row, traits.unwrap_or("{}"));
        }
        if let Some(into) = into {
            self.merge(name, into);
        }
        Ok(())
    }

    fn email(&mut self, row: u32, email: Option<&str>) {
        if let Some(email) = email {
            let mut quoted = String::new();
            quote(&mut quoted, email);
            self.emails.set(row, Some(&quoted));
        }
    }

    fn traits_of(&mut self, row: u32, traits: &str) {
        for (name, value) in Raw::trusted(traits).members() {
            let value = (!value.is_null()).then(|| value.text());
            self.traits.set(row, &name, value);
        }
    }

    fn event(&mut self, event: &Event<'_>, position: i64, counts: bool) -> Result<(), Broken> {
        let Some(person) = event.person() else { return Ok(()) };
        let person = text(person)?;
        let row = self.row(person);
        if position > self.people_position {
            if let Some(row) = row
                && !self.is_present(row)
            {
                self.set_present(row, true);
            }
            if let Some(identify) = event.identify {
                if let Some(row) = row.filter(|_| self.owns(person)) {
                    self.email(row, identify.email.map(text).transpose()?);
                    self.traits_of(row, text(event.properties)?);
                }
                if let Some(anonymous) = event.anonymous.map(text).transpose()?.filter(|&name| name != person) {
                    if let Some(row) = self.row(anonymous)
                        && !self.is_present(row)
                    {
                        self.set_present(row, true);
                    }
                    self.merge(anonymous, person);
                }
            }
        }
        if position > self.events_position
            && counts
            && let Some(row) = self.row(person)
        {
            let second = second_of(event.occurred_ms);
            let event_type = text(event.event_type)?;
            if let Some(track) = self.track(event_type) {
                self.count(row, second, track);
            }
            self.count_streams(row, second, position, event_type, text(event.properties)?);
        }
        Ok(())
    }

    fn change(&mut self, change: &Change<'_>) -> Result<(), Broken> {
        let name = text(change.person)?;
        if change.delete {
            if let Some(row) = self.names.find(name) {
                self.remove(row);
            }
            return Ok(());
        }
        if let Some(row) = self.row(name) {
            self.set_present(row, true);
            if self.owns(name) {
                self.email(row, change.email.map(text).transpose()?);
                if let Some(traits) = change.traits {
                    self.traits_of(row, text(traits)?);
                }
            }
        }
        Ok(())
    }

    /// The takeover. A person is taken over once, and never by whom she leads to herself.
    fn merge(&mut self, anonymous: &str, known: &str) {
        let ours = self.owns(anonymous) || self.owns(known);
        if !ours && self.names.find(anonymous).is_none() && self.names.find(known).is_none() {
            return;
        }
        let (Some(from), Some(into)) = (self.slot(anonymous), self.slot(known)) else { return };
        let root = self.chain(into).last().unwrap_or(into);
        if root == from || self.merged.contains_key(&from) {
            return;
        }
        // The name of a stranger may have done things before we ever heard of it.
        let strange = !self.owns(anonymous) && !self.loading;
        // Profiles come from Postgres with who they led to then, which may lead on; from the log they lead to the end.
        self.merged.insert(from, if self.loading { into } else { root });
        self.set_present(from, self.is_present(from));
        let torn = strange || self.torn.contains(from);
        for target in self.chain(from).skip(1) {
            for track in &mut self.tracks {
                track.fold(from, target);
            }
            for stream in self.streams.values_mut() {
                stream.fold(from, target);
            }
            if torn {
                Arc::make_mut(&mut self.torn).insert(target);
            }
        }
    }

    /// The profile goes, and with it the way to whoever had taken it over; the events stay under its name.
    fn remove(&mut self, row: u32) {
        let behind: Vec<u32> = self.chain(row).skip(1).collect();
        if !behind.is_empty() {
            Arc::make_mut(&mut self.torn).extend(behind);
            self.merged.remove(&row);
        }
        self.traits.clear(row);
        self.emails.set(row, None);
        self.lifecycles.set(row, None);
        self.set_present(row, false);
    }

    fn erase(&mut self, row: u32) {
        for track in &mut self.tracks {
            track.clear(row);
        }
        for stream in self.streams.values_mut() {
            stream.clear(row);
        }
        if self.merged.values().any(|&into| into == row) {
            // Somebody who was not erased still leads here.
            Arc::make_mut(&mut self.torn).insert(row);
            return;
        }
        Arc::make_mut(&mut self.torn).remove(row);
        self.names.forget(row);
        self.dead.insert(row);
    }

    fn count_streams(&mut self, person: u32, second: u32, position: i64, event_type: &str, properties: &str) {
        if self.streams.is_empty() {
            return;
        }
        let chain: Vec<u32> = self.chain(person).collect();
        for stream in self.streams.values_mut() {
            stream.event(&chain, second, position, rules::canonical(event_type), properties);
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, Broken> {
    std::str::from_utf8(bytes).map_err(|_| Broken("a text in the log is not UTF-8"))
}
