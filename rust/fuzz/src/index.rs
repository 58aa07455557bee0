//! A snapshot of the audience index, without its checksum; runs of zeros are written short (see `expand`).
//!
//! A file that was damaged is an error and nothing else. What reads back is written back as the same index, and every
//! question to it has an answer: nobody is both member and undecided, and who is listed is who is counted.

use std::sync::Arc;

use sendora_core::index::Index;
use sendora_core::pgcopy::Reader;
use sendora_core::rules::Rule;

use super::NOW_MS;

/// A block of the file has masks and columns of kilobytes, nearly all of them zero: 0xFE n stands for 16 n zeros.
const SHORT: u8 = 0xFE;
const STEP: usize = 16;
/// More than any seed, and little enough for thousands of runs a second.
const BYTES_MAX: usize = 1 << 20;

const RULES: [&str; 3] = [
    r#"{"all":[]}"#,
    r#"{"any":[{"trait":"plan","op":"eq","value":"pro"},{"trait":"email","op":"contains","value":"@"},{"lifecycle":"active","op":"eq"}]}"#,
    r#"{"all":[{"not":{"event":"purchase","op":"count_gte","value":3,"window":"30d"}},{"event":"purchase","op":"occurred_in_last","value":"12h"},{"event":"purchase","op":"count_lte","value":9,"where":{"trait":"amount","op":"gte","value":50}}]}"#,
];

pub fn run(data: &[u8]) {
    let mut file = expand(data);
    file.extend_from_slice(&crc32c::crc32c(&file).to_le_bytes());
    let Ok(index) = Index::read(&file) else { return };
    let again = Index::read(&index.image().bytes()).expect("what was read is written as it can be read");
    assert_eq!((again.people(), again.position()), (index.people(), index.position()));
    let _ = index.memory();
    for rule in RULES {
        let rule = Arc::new(Rule::new(rule.as_bytes()).expect("a rule of ours"));
        let view = index.bind(&rule, NOW_MS);
        let answer = view.ask();
        let (members, undecided) = (names(&answer.members()), names(&answer.undecided()));
        assert_eq!((members.len(), undecided.len()), (answer.count, answer.open), "who is listed is who is counted");
        assert!(answer.count + answer.open <= index.people());
        view.preview();
        for name in &members {
            if let Some(row) = index.find(name) {
                view.explain(row);
            }
        }
        let other = again.bind(&rule, NOW_MS).ask();
        assert_eq!((other.count, other.open), (answer.count, answer.open), "the same index gives the same answer");
    }
}

fn names(copy: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    Reader::new(1)
        .feed(copy, |row| {
            names.push(row.text(0)?.unwrap_or_default().to_owned());
            Ok(())
        })
        .expect("the list of members is a COPY stream");
    names
}

fn expand(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = data.iter();
    while let Some(&byte) = bytes.next()
        && out.len() < BYTES_MAX
    {
        match byte {
            SHORT => out.resize(out.len() + STEP * usize::from(*bytes.next().unwrap_or(&0)), 0),
            _ => out.push(byte),
        }
    }
    out
}
