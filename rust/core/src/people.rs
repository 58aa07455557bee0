//! Frames on their way into the table `profiles`: one row for each person, later changes over earlier ones.
//!
//! A batch may name a person a thousand times; the table hears of it once. The row is a difference, not a state: what
//! to set, what to remove, whether a deletion came first. Times are those of receipt, because a client's clock may be
//! wrong by a day while `lastSeenAt` must never lie in the future.

use std::collections::{BTreeMap, HashMap};

use crate::Broken;
use crate::check::profile_id;
use crate::json::{Raw, quote};
use crate::pgcopy::Writer;
use crate::record::{self, Change, Event, Record, Tenant};

const COLUMNS: u16 = 14;

#[derive(Debug, Default)]
struct Person {
    /// A deletion came before what follows.
    reset: bool,
    /// Something came after it, or there was none.
    present: bool,
    email: Option<String>,
    /// A trait by name: its JSON, or None to remove it.
    traits: BTreeMap<String, Option<String>>,
    locale: Option<String>,
    timezone: Option<String>,
    merged_into: Option<String>,
    first_ms: i64,
    last_ms: i64,
}

impl Person {
    fn seen(&mut self, ms: i64) {
        if self.present {
            self.first_ms = self.first_ms.min(ms);
            self.last_ms = self.last_ms.max(ms);
        } else {
            (self.present, self.first_ms, self.last_ms) = (true, ms, ms);
        }
    }

    fn merge(&mut self, traits: &[u8]) -> Result<(), Broken> {
        for (name, value) in Raw::trusted(text(traits)?).members() {
            let value = (!value.is_null()).then(|| value.text().to_owned());
            self.traits.insert(name.into_owned(), value);
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct ProfileBatch {
    /// By project first, so that the look-up by name needs no copy of the name.
    people: HashMap<Tenant, HashMap<String, Person>>,
}

impl ProfileBatch {
    pub fn new<'f>(frames: impl Iterator<Item = &'f [u8]>) -> Result<Self, Broken> {
        let mut batch = Self::default();
        for bytes in frames {
            for record in record::open(bytes)?.records {
                match record::read(record?)? {
                    (tenant, Record::Event(event)) => batch.event(tenant, &event)?,
                    (tenant, Record::Change(change)) => batch.change(tenant, &change)?,
                }
            }
        }
        Ok(batch)
    }

    pub fn len(&self) -> usize {
        self.people.values().map(HashMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.people.is_empty()
    }

    /// Sorted by (org, project, external id): the upsert takes its locks in one order everywhere.
    pub fn copy(&self) -> Vec<u8> {
        let mut rows: Vec<_> = self
            .people
            .iter()
            .flat_map(|(tenant, people)| people.iter().map(move |(name, person)| (tenant, name, person)))
            .collect();
        rows.sort_unstable_by_key(|&(tenant, name, _)| (tenant, name));
        let mut writer = Writer::with_capacity(rows.len() * 256);
        let mut set = String::new();
        for (tenant, name, person) in rows {
            writer.row(COLUMNS);
            writer.bytes(&tenant.org);
            writer.bytes(&tenant.project);
            writer.bytes(name.as_bytes());
            writer.bytes(&profile_id(&tenant.project, name.as_bytes()));
            writer.boolean(person.reset);
            writer.boolean(person.present);
            writer.optional(person.email.as_deref().map(str::as_bytes));
            set.clear();
            for (trait_name, value) in &person.traits {
                let Some(value) = value else { continue };
                set.push(if set.is_empty() { '{' } else { ',' });
                quote(&mut set, trait_name);
                set.push(':');
                set.push_str(value);
            }
            set.push_str(if set.is_empty() { "{}" } else { "}" });
            writer.jsonb(set.as_bytes());
            let unset: Vec<&String> =
                person.traits.iter().filter(|(_, value)| value.is_none()).map(|(trait_name, _)| trait_name).collect();
            writer.texts(&unset);
            writer.optional(person.locale.as_deref().map(str::as_bytes));
            writer.optional(person.timezone.as_deref().map(str::as_bytes));
            writer.optional(person.merged_into.as_deref().map(str::as_bytes));
            writer.instant(person.first_ms);
            writer.instant(person.last_ms);
        }
        writer.finish()
    }

    fn event(&mut self, tenant: Tenant, event: &Event<'_>) -> Result<(), Broken> {
        let Some(name) = event.person() else { return Ok(()) };
        let name = text(name)?;
        let person = self.person(tenant, name);
        person.seen(event.received_ms);
        let Some(identify) = event.identify else { return Ok(()) };
        person.merge(event.properties)?;
        for (field, value) in [
            (&mut person.email, identify.email),
            (&mut person.locale, identify.locale),
            (&mut person.timezone, identify.timezone),
        ] {
            if let Some(value) = value {
                *field = Some(text(value)?.to_owned());
            }
        }
        // The takeover: from this row on, every look-up of the anonymous person leads to the known one. The first one
        // counts, as it does when they come in two batches.
        if let Some(anonymous) = event.anonymous.filter(|&anonymous| anonymous != name.as_bytes()) {
            let anonymous = self.person(tenant, text(anonymous)?);
            anonymous.seen(event.received_ms);
            anonymous.merged_into.get_or_insert_with(|| name.to_owned());
        }
        Ok(())
    }

    fn change(&mut self, tenant: Tenant, change: &Change<'_>) -> Result<(), Broken> {
        let person = self.person(tenant, text(change.person)?);
        if change.delete {
            *person = Person { reset: true, first_ms: change.at_ms, last_ms: change.at_ms, ..Person::default() };
            return Ok(());
        }
        person.seen(change.at_ms);
        if let Some(email) = change.email {
            person.email = Some(text(email)?.to_owned());
        }
        if let Some(traits) = change.traits {
            person.merge(traits)?;
        }
        Ok(())
    }

    fn person(&mut self, tenant: Tenant, name: &str) -> &mut Person {
        let people = self.people.entry(tenant).or_default();
        // Two look-ups for a known name, but no allocation.
        if !people.contains_key(name) {
            people.insert(name.to_owned(), Person::default());
        }
        people.get_mut(name).unwrap_or_else(|| unreachable!("it was inserted above"))
    }
}

fn text(bytes: &[u8]) -> Result<&str, Broken> {
    std::str::from_utf8(bytes).map_err(|_| Broken("a text in the log is not UTF-8"))
}
