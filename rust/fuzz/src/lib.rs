//! What must hold for any bytes: a function for each parser that reads what others wrote.
//!
//! Each is used twice. `make fuzz NAME=check` drives it with libFuzzer, which mutates towards new branches; `cargo test`
//! replays `seeds/` through it (rust/core/tests/replay.rs), so an input that once broke something stays a test. A
//! function that returns has found nothing; it panics where a promise is broken.

pub mod answer;
pub mod check;
pub mod copy;
pub mod index;
pub mod log;
pub mod note;
pub mod rules;
pub mod template;

pub type Target = fn(&[u8]);

/// Every target by the name of its seeds.
pub const TARGETS: &[(&str, Target)] = &[
    ("answer", answer::run),
    ("check", check::run),
    ("copy", copy::run),
    ("index", index::run),
    ("log", log::run),
    ("note", note::run),
    ("rules", rules::run),
    ("template", template::run),
];

/// 2026-05-28: a fixed now, so that an input means the same for ever.
const NOW_MS: i64 = 1_780_000_000_000;

/// Two inputs in one: what stands before and behind the first zero byte, which no JSON and no template has.
fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    let at = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
    (&data[..at], data.get(at + 1..).unwrap_or_default())
}

/// The rows of a whole COPY stream, which must be one.
fn rows(stream: &[u8], columns: usize) -> usize {
    let mut reader = sendora_core::pgcopy::Reader::new(columns);
    let mut rows = 0;
    let read = reader.feed(stream, |_| {
        rows += 1;
        Ok(())
    });
    assert_eq!(read.and_then(|()| reader.finish()), Ok(()), "our own COPY stream must be readable");
    rows
}
