//! The index as a file: written as one block of bytes, read back by a reader that trusts nothing.
//!
//! ```text
//! file    = "SNDX" version:u8 part:u32 parts:u32 events:i64 people:i64 flags:u8
//!           names people present merged torn dead traits emails lifecycles types streams crc32c:u32
//! ```
//!
//! Integers are little-endian, a list begins with its length (u32). Every length is compared with what is left of the
//! file before anything is allocated for it, rows must ascend, and names must be text; so a damaged or hostile file is
//! an error and nothing else. A code that no dictionary has holds for nobody.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::column::Column;
use super::mask::{Mask, ROWS, WORDS};
use super::names::{self, Names};
use super::stream::Stream;
use super::track::{self, DAYS, Recent, Run, TRACKS_MAX, Track};
use super::traits::{COLUMNS_MAX, Codes, Dictionary, TraitColumn, Traits};
use super::{Index, PEOPLE_MAX, State};
use crate::Broken;

const MAGIC: &[u8; 4] = b"SNDX";
const VERSION: u8 = 1;
const CUT: Broken = Broken("a snapshot is cut");
const WRONG: Broken = Broken("a snapshot has a wrong value");

/// What a snapshot is written from: shared references to the blocks, taken under the lock, written without it.
pub struct Image {
    part: u32,
    parts: u32,
    events_position: i64,
    people_position: i64,
    overflowed: (bool, bool),
    names: Vec<Arc<names::Block>>,
    people: Vec<Arc<Mask>>,
    present: Vec<Arc<Mask>>,
    merged: Vec<(u32, u32)>,
    torn: Arc<RoaringBitmap>,
    dead: RoaringBitmap,
    traits: Vec<(String, TraitColumn)>,
    emails: TraitColumn,
    lifecycles: TraitColumn,
    tracks: Vec<(String, Track)>,
    streams: Vec<(String, Track)>,
}

impl Index {
    pub fn image(&self) -> Image {
        let State { traits, tracks, types, streams, .. } = &self.state;
        Image {
            part: self.state.part,
            parts: self.state.parts,
            events_position: self.state.events_position,
            people_position: self.state.people_position,
            overflowed: (traits.overflowed, self.state.tracks_overflowed),
            names: self.state.names.blocks().clone(),
            people: self.state.people.clone(),
            present: self.state.present.clone(),
            merged: self.state.merged.iter().map(|(&from, &into)| (from, into)).collect(),
            torn: Arc::clone(&self.state.torn),
            dead: self.state.dead.clone(),
            traits: traits.columns.iter().map(|(name, column)| (name.clone(), column.clone())).collect(),
            emails: self.state.emails.clone(),
            lifecycles: self.state.lifecycles.clone(),
            tracks: types.iter().map(|(name, &track)| (name.clone(), tracks[track].clone())).collect(),
            // A stream whose past is still being read is registered again by the next who asks.
            streams: streams.iter().filter_map(|(key, it)| Some((key.clone(), it.track()?.clone()))).collect(),
        }
    }

    /// From the bytes of a snapshot.
    pub fn read(bytes: &[u8]) -> Result<Self, Broken> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(CUT)?;
        if !body.starts_with(MAGIC) {
            return Err(Broken("not a snapshot: wrong magic"));
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(Broken("a snapshot's checksum is wrong"));
        }
        let mut input = Input(&body[MAGIC.len()..]);
        if input.byte()? != VERSION {
            return Err(Broken("a snapshot of unknown version"));
        }
        let state = read_state(&mut input)?;
        if input.0.is_empty() { Ok(Self::of(state)) } else { Err(WRONG) }
    }
}

impl Image {
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Output(Vec::new());
        out.0.extend_from_slice(MAGIC);
        out.0.push(VERSION);
        out.word(self.part);
        out.word(self.parts);
        out.long(self.events_position);
        out.long(self.people_position);
        out.0.push(u8::from(self.overflowed.0) | u8::from(self.overflowed.1) << 1);
        out.list(self.names.iter(), |out, block| {
            out.words(&block.ends);
            out.text(&block.text);
        });
        for masks in [&self.people, &self.present] {
            for mask in masks {
                out.mask(mask);
            }
        }
        out.list(self.merged.iter(), |out, &(from, into)| {
            out.word(from);
            out.word(into);
        });
        out.words(&self.torn.iter().collect::<Vec<_>>());
        out.words(&self.dead.iter().collect::<Vec<_>>());
        out.list(self.traits.iter(), |out, (name, column)| {
            out.text(name);
            out.traits(column);
        });
        out.traits(&self.emails);
        out.traits(&self.lifecycles);
        for tracks in [&self.tracks, &self.streams] {
            out.list(tracks.iter(), |out, (name, track)| {
                out.text(name);
                out.track(track);
            });
        }
        let crc = crc32c::crc32c(&out.0);
        out.word(crc);
        out.0
    }
}

struct Output(Vec<u8>);

/// A number of fixed width.
trait Fixed: Copy + Default + PartialEq {
    const BYTES: usize;
    fn write(self, out: &mut Vec<u8>);
    fn put(self, into: &mut [u8]);
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! fixed {
    ($($type:ty),*) => {$(
        impl Fixed for $type {
            const BYTES: usize = size_of::<$type>();
            fn write(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn put(self, into: &mut [u8]) {
                into.copy_from_slice(&self.to_le_bytes());
            }
            fn read(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap_or_default())
            }
        }
    )*};
}

fixed!(u8, u16, u32);

impl Output {
    fn word(&mut self, value: u32) {
        value.write(&mut self.0);
    }

    fn long(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn list<T>(&mut self, items: impl ExactSizeIterator<Item = T>, mut each: impl FnMut(&mut Self, T)) {
        self.word(items.len() as u32);
        items.for_each(|item| each(self, item));
    }

    fn numbers<T: Fixed>(&mut self, values: &[T]) {
        let from = self.0.len();
        self.0.resize(from + values.len() * T::BYTES, 0);
        self.0[from..].chunks_exact_mut(T::BYTES).zip(values).for_each(|(into, value)| value.put(into));
    }

    fn words(&mut self, values: &[u32]) {
        self.word(values.len() as u32);
        self.numbers(values);
    }

    fn text(&mut self, text: &str) {
        self.word(text.len() as u32);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn mask(&mut self, mask: &Mask) {
        mask.words().iter().for_each(|word| self.0.extend_from_slice(&word.to_le_bytes()));
    }

    fn column<T: Fixed>(&mut self, column: &Column<T>) {
        match column {
            Column::Sparse { rows, values } => {
                self.0.push(0);
                self.word(rows.len() as u32);
                self.numbers(rows);
                self.numbers(values);
            }
            Column::Dense(values) => {
                self.0.push(1);
                self.numbers(&values[..]);
            }
        }
    }

    fn traits(&mut self, column: &TraitColumn) {
        self.0.push(u8::from(column.dictionary.is_some()));
        let values = column.dictionary.as_ref().map_or(&[][..], |dictionary| dictionary.values());
        self.list(values.iter(), |out, value| out.text(value));
        self.list(column.blocks.iter(), |out, codes| match codes.as_deref() {
            None => out.0.push(0),
            Some(Codes::Narrow(column)) => {
                out.0.push(1);
                out.column(column);
            }
            Some(Codes::Wide(column)) => {
                out.0.push(2);
                out.column(column);
            }
            Some(Codes::Present(mask)) => {
                out.0.push(3);
                out.mask(mask);
            }
        });
    }

    fn track(&mut self, track: &Track) {
        self.word(track.recent_from);
        self.word(track.newest);
        self.list(track.blocks.iter(), |out, block| {
            out.0.push(u8::from(block.is_some()));
            let Some(block) = block else { return };
            out.column(&block.last);
            block.days.iter().for_each(|level| out.column(level));
            out.list(block.more.iter(), |out, (row, runs)| {
                row.write(&mut out.0);
                out.list(runs.iter(), |out, run| {
                    run.day.write(&mut out.0);
                    run.count.write(&mut out.0);
                });
            });
            out.list(block.recent.iter(), |out, event| {
                event.row.write(&mut out.0);
                out.word(event.second());
            });
        });
    }
}

struct Input<'a>(&'a [u8]);

fn read_state(input: &mut Input<'_>) -> Result<State, Broken> {
    let (part, parts) = (input.word()?, input.word()?);
    if part >= parts {
        return Err(WRONG);
    }
    let (events_position, people_position) = (input.long()?, input.long()?);
    let flags = input.byte()?;
    let blocks = input.list(8, |input| {
        let ends: Vec<u32> = input.words()?;
        let text = input.text()?;
        let ordered = ends.is_sorted() && ends.last().copied().unwrap_or(0) as usize == text.len();
        // A name ends where a character does.
        if !ordered || !ends.iter().all(|&end| text.is_char_boundary(end as usize)) {
            return Err(WRONG);
        }
        Ok(Arc::new(names::Block { text: text.to_owned(), ends }))
    })?;
    let full = |block: &Arc<names::Block>| block.ends.len() == ROWS;
    let last = blocks.last().is_none_or(|block| (1..=ROWS).contains(&block.ends.len()));
    if !last || !blocks.iter().rev().skip(1).all(full) {
        return Err(WRONG);
    }
    let rows = blocks.last().map_or(0, |last| (blocks.len() - 1) * ROWS + last.ends.len());
    if rows > PEOPLE_MAX {
        return Err(WRONG);
    }
    let mut masks = || (0..blocks.len()).map(|_| input.mask(rows).map(Arc::new)).collect::<Result<Vec<_>, _>>();
    let (people, present) = (masks()?, masks()?);
    // A mask may only speak of rows that have a name.
    if let (Some(block), true) = (blocks.len().checked_sub(1), !rows.is_multiple_of(ROWS)) {
        let beyond = |mask: &Arc<Mask>| mask.rows().any(|row| usize::from(row) >= rows % ROWS);
        if beyond(&people[block]) || beyond(&present[block]) {
            return Err(WRONG);
        }
    }
    let row =
        |input: &mut Input<'_>| input.word().and_then(|row| if (row as usize) < rows { Ok(row) } else { Err(WRONG) });
    let merged = input.list(8, |input| Ok((row(input)?, row(input)?)))?;
    let torn: RoaringBitmap = input.list(4, row)?.into_iter().collect();
    let dead: RoaringBitmap = input.list(4, row)?.into_iter().collect();
    let columns: HashMap<String, TraitColumn> =
        input.list(13, |input| Ok((input.text()?.to_owned(), input.traits(blocks.len())?)))?.into_iter().collect();
    if columns.len() > COLUMNS_MAX {
        return Err(WRONG);
    }
    let (emails, lifecycles) = (input.traits(blocks.len())?, input.traits(blocks.len())?);
    let by_type = input.list(16, |input| Ok((input.text()?.to_owned(), input.track(blocks.len())?)))?;
    if by_type.len() > TRACKS_MAX {
        return Err(WRONG);
    }
    let mut tracks = Vec::with_capacity(by_type.len());
    let mut types = HashMap::new();
    for (name, track) in by_type {
        types.insert(name, tracks.len());
        tracks.push(track);
    }
    let streams = input.list(16, |input| {
        let key = input.text()?;
        let stream = Stream::filled(key, input.track(blocks.len())?).map_err(|_| WRONG)?;
        Ok((key.to_owned(), stream))
    })?;
    let people_names = Names::from_blocks(blocks, |row| dead.contains(row));
    Ok(State {
        part,
        parts,
        events_position,
        people_position,
        loading: false,
        names: people_names,
        people,
        present,
        merged: merged.into_iter().collect(),
        torn: Arc::new(torn),
        dead,
        traits: Traits { columns, overflowed: flags & 1 != 0 },
        emails,
        lifecycles,
        tracks,
        types,
        tracks_overflowed: flags & 2 != 0,
        streams: streams.into_iter().collect(),
    })
}

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Broken> {
        self.take(1).map(|byte| byte[0])
    }

    fn number<T: Fixed>(&mut self) -> Result<T, Broken> {
        self.take(T::BYTES).map(T::read)
    }

    fn word(&mut self) -> Result<u32, Broken> {
        self.number()
    }

    fn long(&mut self) -> Result<i64, Broken> {
        Ok(i64::from_le_bytes(self.take(8)?.try_into().map_err(|_| CUT)?))
    }

    /// `least`: the fewest bytes that an item takes, so that a length beyond the file is seen before it costs anything.
    fn list<T>(
        &mut self,
        least: usize,
        mut each: impl FnMut(&mut Self) -> Result<T, Broken>,
    ) -> Result<Vec<T>, Broken> {
        let length = self.word()? as usize;
        if length > self.0.len() / least {
            return Err(CUT);
        }
        (0..length).map(|_| each(self)).collect()
    }

    fn numbers<T: Fixed>(&mut self, length: usize) -> Result<Vec<T>, Broken> {
        Ok(self.take(length.checked_mul(T::BYTES).ok_or(CUT)?)?.chunks_exact(T::BYTES).map(T::read).collect())
    }

    fn words(&mut self) -> Result<Vec<u32>, Broken> {
        let length = self.word()? as usize;
        self.numbers(length)
    }

    fn text(&mut self) -> Result<&'a str, Broken> {
        let length = self.word()? as usize;
        std::str::from_utf8(self.take(length)?).map_err(|_| WRONG)
    }

    fn mask(&mut self, _rows: usize) -> Result<Mask, Broken> {
        let bytes = self.take(WORDS * 8)?;
        let mut mask = Mask::none();
        for (word, bytes) in mask.words_mut().iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().map_err(|_| CUT)?);
        }
        Ok(mask)
    }

    fn column<T: Fixed>(&mut self) -> Result<Column<T>, Broken> {
        match self.byte()? {
            0 => {
                let length = self.word()? as usize;
                let rows: Vec<u16> = self.numbers(length)?;
                if !rows.is_sorted_by(|a, b| a < b) {
                    return Err(WRONG);
                }
                Ok(Column::Sparse { rows, values: self.numbers(length)? })
            }
            1 => {
                let values: Vec<T> = self.numbers(ROWS)?;
                values.into_boxed_slice().try_into().map(Column::Dense).map_err(|_| CUT)
            }
            _ => Err(WRONG),
        }
    }

    fn traits(&mut self, blocks_max: usize) -> Result<TraitColumn, Broken> {
        let kept = self.byte()? != 0;
        let mut dictionary = Dictionary::default();
        for value in self.list(4, Self::text)? {
            dictionary.add(value).ok_or(WRONG)?;
        }
        let blocks = self.list(1, |input| {
            Ok(match input.byte()? {
                0 => None,
                1 if kept => Some(Arc::new(Codes::Narrow(input.column()?))),
                2 if kept => Some(Arc::new(Codes::Wide(input.column()?))),
                3 if !kept => Some(Arc::new(Codes::Present(input.mask(0)?))),
                _ => return Err(WRONG),
            })
        })?;
        if blocks.len() > blocks_max {
            return Err(WRONG);
        }
        Ok(TraitColumn { dictionary: kept.then(|| Arc::new(dictionary)), blocks })
    }

    fn track(&mut self, blocks_max: usize) -> Result<Track, Broken> {
        let (recent_from, newest) = (self.word()?, self.word()?);
        let blocks = self.list(1, |input| {
            if input.byte()? == 0 {
                return Ok(None);
            }
            let last = input.column()?;
            let mut days: [Column<u16>; DAYS] = Default::default();
            for level in &mut days {
                *level = input.column()?;
            }
            let more = input.list(6, |input| {
                let row = input.number()?;
                let runs = input.list(4, |input| Ok(Run { day: input.number()?, count: input.number()? }))?;
                if !runs.is_sorted_by(|a, b| a.day >= b.day) {
                    return Err(WRONG);
                }
                Ok((row, Arc::new(runs)))
            })?;
            let recent = input.list(6, |input| Ok(Recent::new(input.number()?, input.number()?)))?;
            Ok(Some(Arc::new(track::Block { last, days, more: more.into_iter().collect(), recent })))
        })?;
        if blocks.len() > blocks_max {
            return Err(WRONG);
        }
        Ok(Track::new(blocks, recent_from, newest))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Checked;
    use super::*;
    use crate::record::{Event, Identify, Record, Tenant, frame, write};
    use crate::rules::Rule;
    use proptest::prelude::*;

    const PROJECT: [u8; 16] = [7; 16];

    fn index() -> Index {
        let mut index = Index::new(0, 1);
        let tenant = Tenant { org: [1; 16], project: PROJECT };
        let mut records = Vec::new();
        for n in 0..40_u32 {
            let user = format!("u{}", n % 5);
            let event = Event {
                occurred_ms: 1_780_000_000_000 - i64::from(n) * 40_000_000,
                event_type: if n % 3 == 0 { b"buy" } else { b"see" },
                user: Some(user.as_bytes()),
                properties: b"{\"amount\":5}",
                ..Event::default()
            };
            write(&mut records, tenant, &Record::Event(event));
        }
        let identify = Identify { email: Some(b"a@example.com"), ..Identify::default() };
        let event = Event {
            event_type: b"user.identified",
            user: Some(b"u1"),
            anonymous: Some(b"u2"),
            properties: b"{\"plan\":\"pro\",\"n\":[1,2]}",
            identify: Some(identify),
            ..Event::default()
        };
        write(&mut records, tenant, &Record::Event(event));
        index.register_stream(KEY).unwrap();
        index.stream_loaded(KEY, 0).unwrap();
        let bytes = frame(std::iter::once(records.as_slice())).unwrap();
        index.apply(&PROJECT, Checked::new(&bytes, 1, &[]).unwrap()).unwrap();
        index
    }

    const KEY: &str = "{\"event\":\"buy\",\"where\":{\"op\":\"gte\",\"trait\":\"amount\",\"value\":5}}";
    const RULE: &[u8] = br#"{"any":[{"trait":"plan","op":"eq","value":"pro"},{"trait":"email","op":"exists"},
        {"event":"buy","op":"count_gte","value":9},{"event":"see","op":"count_lte","value":2,"window":"2d"},
        {"event":"see","op":"occurred_in_last","value":"9d"},{"lifecycle":"new","op":"eq"},
        {"event":"buy","op":"count_gte","value":2,"window":"30d","where":{"trait":"amount","op":"gte","value":5}}]}"#;

    /// Everything that an index can be asked for.
    fn use_it(mut index: Index) -> (Vec<u8>, Vec<Option<String>>) {
        let rule = Arc::new(Rule::new(RULE).unwrap());
        let view = index.bind(&rule, 1_780_000_000_000);
        let answer = view.ask();
        view.preview();
        let rows = index.state.names.len() as u32;
        let reasons = (0..rows).map(|row| view.explain(row)).collect();
        let members = answer.members();
        answer.undecided();
        index.memory();
        index.erase(&["u1", "u2"]);
        index.image().bytes();
        (members, reasons)
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = index().image().bytes();
        let read = Index::read(&bytes).unwrap();
        assert_eq!((read.position(), read.people()), (1, 4));
        assert!(read.streams_wanted(&Rule::new(RULE).unwrap()).is_empty());
        assert_eq!(use_it(read), use_it(index()));
    }

    /// With a checksum that is right, so that the reader itself is asked.
    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        let crc = crc32c::crc32c(&body);
        body.extend_from_slice(&crc.to_le_bytes());
        body
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]
        #[test]
        fn a_hostile_snapshot_is_an_error_or_an_index(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in proptest::option::of(any::<prop::sample::Index>()),
        ) {
            let mut body = index().image().bytes();
            body.truncate(body.len() - 4);
            for (at, value) in changes {
                let at = at.index(body.len());
                body[at] = value;
            }
            if let Some(cut) = cut {
                body.truncate(cut.index(body.len()));
            }
            if let Ok(read) = Index::read(&sealed(body)) {
                use_it(read);
            }
        }

        #[test]
        fn a_length_costs_nothing_before_it_is_believed(at in any::<prop::sample::Index>()) {
            let mut body = index().image().bytes();
            body.truncate(body.len() - 4);
            let at = at.index(body.len() - 4);
            body[at..at + 4].fill(0xFF);
            if let Ok(read) = Index::read(&sealed(body)) {
                use_it(read);
            }
        }

        #[test]
        fn junk_is_no_panic(junk in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut body = [MAGIC.as_slice(), &[VERSION]].concat();
            body.extend(junk);
            let _ = Index::read(&sealed(body));
        }
    }
}
