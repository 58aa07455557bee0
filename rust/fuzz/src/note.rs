//! A send as its channel describes it, and behind a zero byte the inside of a COPY stream of recipients.
//!
//! A note that compiles decides on everybody once, its texts are bounded, and a deferral lies ahead.

use sendora_core::outcome::State;
use sendora_core::pgcopy::Writer;
use sendora_core::policy::caps::Caps;
use sendora_core::policy::decide::Decided;
use sendora_core::policy::note::Note;
use sendora_core::template::Template;

use super::{NOW_MS, halves};

const COLUMNS: u16 = 16;
const TEXT_BYTES_MAX: usize = 4_096;
const RECIPIENTS: usize = 4;

pub fn run(data: &[u8]) {
    let (spec, rows) = halves(data);
    let Ok(note) = Note::new(spec) else { return };
    let mut caps = Caps::default();
    let extra = ["{{trait.deep.er}}", "{{event.amount}}"].map(Template::new);
    for _ in 0..2 {
        let decided =
            note.decide(&recipients(), Some(&mut caps), NOW_MS, &extra).expect("recipients of the right shape");
        holds(&decided, RECIPIENTS);
    }
    let mut stream = Writer::with_capacity(0).finish();
    stream.truncate(stream.len() - 2);
    stream.extend_from_slice(rows);
    if let Ok(decided) = note.decide(&stream, Some(&mut caps), NOW_MS, &extra) {
        holds(&decided, decided.calls.len() + decided.stays.len());
    }
}

fn holds(decided: &Decided, recipients: usize) {
    assert_eq!(decided.calls.len() + decided.stays.len(), recipients, "everybody has one verdict");
    for call in &decided.calls {
        let texts = [call.title, call.body].map(|text| decided.text(text).len());
        assert!(texts.into_iter().all(|length| length <= TEXT_BYTES_MAX), "a template must not multiply");
        for index in 0..decided.extras_each() as u16 {
            decided.extra(call, index);
        }
        for text in [call.subscription, call.bundle_id, call.user_id, call.variant] {
            decided.optional(text);
        }
        for text in [call.platform, call.token, call.environment] {
            decided.text(text);
        }
    }
    for stay in &decided.stays {
        assert_eq!(stay.state == State::Deferred, stay.due_ms.is_some(), "who is deferred is due again");
        assert!(stay.due_ms.is_none_or(|due_ms| due_ms > NOW_MS), "a deferral lies ahead");
    }
}

/// A person with everything, one without a profile, a device of nobody, and an address that is gone.
fn recipients() -> Vec<u8> {
    let mut writer = Writer::with_capacity(0);
    for position in 0..RECIPIENTS as i16 {
        let user = [Some("ada"), Some("bob"), None, None][position as usize];
        let here = position != 3;
        writer.row(COLUMNS);
        writer.bytes(&position.to_be_bytes());
        writer.bytes(&[position as u8; 16]);
        writer.optional(here.then_some(b"ios"));
        writer.optional(here.then_some(b"token"));
        writer.null();
        writer.optional(here.then_some(b"production"));
        writer.optional(here.then_some(b"com.example"));
        writer.optional(user.map(str::as_bytes));
        writer.boolean(here);
        writer.instant(0);
        writer.optional(user.map(|_| &b"de-AT"[..]));
        writer.optional(user.map(|_| &b"Europe/Berlin"[..]));
        if position == 0 {
            writer.jsonb(br#"{"firstName":"Ada","n":1.50,"deep":{"er":"x"}}"#);
            writer.bytes(b"ada@example.com");
            writer.instant(NOW_MS);
            writer.instant(NOW_MS);
        } else {
            (0..4).for_each(|_| writer.null());
        }
    }
    writer.finish()
}
