//! A body of `POST /events`, `/events/batch` and `/identify`.
//!
//! A body that is taken has all its items accepted or rejected, each rejected one is named once, and what was accepted
//! is stored: its record reads back, its frame opens, and its row is a row.

use sendora_core::check::{Checked, Origin, check_events, check_identify};
use sendora_core::json;
use sendora_core::people::ProfileBatch;
use sendora_core::record::{self, Record, Records, Tenant};
use sendora_core::store::EventBatch;
use serde_json::Value;

use super::{NOW_MS, rows};

const TENANT: Tenant = Tenant { org: [1; 16], project: [2; 16] };
const EVENT_COLUMNS: usize = 13;
const PROFILE_COLUMNS: usize = 14;

pub fn run(body: &[u8]) {
    let origin = Origin { tenant: TENANT, environment: "prod", received_ms: NOW_MS };
    let document: Option<Value> = serde_json::from_slice(body).ok();
    if json::check(body).is_ok() {
        assert!(document.is_some(), "what is taken here must be JSON elsewhere too");
    }
    for listed in [false, true] {
        let checked = check_events(body, origin, listed);
        let items = if checked.single { Some(1) } else { document.as_ref().and_then(items_of) };
        holds(&checked, items);
    }
    let checked = check_identify(body, origin);
    assert!(checked.single || checked.malformed.is_some(), "an identify is one thing");
    holds(&checked, Some(1));
}

fn items_of(document: &Value) -> Option<usize> {
    document.as_array().or_else(|| document.get("events")?.as_array()).map(Vec::len)
}

/// `items` is None where another reader refuses the document, as it does when one item holds 1e999.
fn holds(checked: &Checked, items: Option<usize>) {
    let errors: Value = serde_json::from_str(&checked.errors).expect("errors are JSON");
    let errors = errors.as_array().expect("errors are a list");
    if checked.malformed.is_some() || checked.too_large.is_some() {
        assert!(errors.is_empty() && checked.records.is_empty(), "a refused body leaves nothing behind");
        assert_eq!((checked.accepted, checked.rejected), (0, 0));
        return;
    }
    assert!(checked.accepted + checked.rejected > 0, "an empty body is refused");
    if let Some(items) = items {
        assert_eq!(checked.accepted + checked.rejected, items, "every item is accepted or rejected");
    }
    assert_eq!(errors.len(), checked.rejected, "each rejected item is named");
    let indexes: Vec<u64> = errors.iter().map(|error| error["index"].as_u64().expect("an index")).collect();
    assert!(indexes.windows(2).all(|pair| pair[0] < pair[1]), "each is named once, in order");
    assert!(errors.iter().all(|error| error["fieldErrors"].as_object().is_some_and(|fields| !fields.is_empty())));
    is_stored(checked);
}

fn is_stored(checked: &Checked) {
    let mut people = 0;
    let mut records = 0;
    for bytes in Records(&checked.records) {
        let (tenant, record) = record::read(bytes.expect("a whole record")).expect("a record reads back");
        let Record::Event(event) = record else { panic!("an ingest makes events") };
        assert_eq!((tenant, event.received_ms), (TENANT, NOW_MS));
        assert!(!event.event_type.is_empty() && !event.module.is_empty() && !event.event_id.is_empty());
        for text in [Some(event.event_type), Some(event.event_id), event.user, event.anonymous, event.device] {
            assert!(
                text.is_none_or(|text| std::str::from_utf8(text).is_ok() && !text.contains(&0)),
                "text for Postgres"
            );
        }
        assert_eq!(json::check(event.properties), Ok(()), "properties are JSON that Postgres keeps");
        people += usize::from(event.person().is_some());
        records += 1;
    }
    assert_eq!(records, checked.accepted, "a record for each accepted item");
    let frame = record::frame(std::iter::once(checked.records.as_slice())).expect("our own records");
    let batch = EventBatch::new(std::iter::once(frame.as_slice())).expect("our own frame");
    assert_eq!(batch.len(), checked.accepted);
    let copy = batch.copy(&[], 0, batch.len()).expect("our own records");
    assert_eq!(rows(&copy, EVENT_COLUMNS), checked.accepted, "a row for each accepted item");
    let profiles = ProfileBatch::new(std::iter::once(frame.as_slice())).expect("our own frame");
    assert!(profiles.len() <= 2 * people, "an item changes its person, and at a takeover one more");
    assert_eq!(rows(&profiles.copy(), PROFILE_COLUMNS), profiles.len());
}
