//! An audience's rule, and behind a zero byte the traits of one more person.
//!
//! A rule that compiles evaluates; the count, the list and the question for one person agree; and a rule and its `not`
//! divide the people among them.

use std::sync::Arc;

use sendora_core::json;
use sendora_core::pgcopy::{Reader, Writer};
use sendora_core::rules::{Evaluation, Rule};
use sendora_core::time::DAY_MS;

use super::{NOW_MS, halves};

const HOSTILE: &str = "hostile";

/// Name, email, traits, stage.
const PEOPLE: [(&str, Option<&str>, &str, Option<&str>); 4] = [
    ("ada", Some("ada@example.com"), r#"{"plan":"pro","age":36,"tags":["vip","beta"],"ok":true}"#, Some("active")),
    ("bob", None, r#"{"plan":"free","age":-1.5,"email":"bob@example.com","tags":[]}"#, Some("churned")),
    ("cy", None, r#"{"plan":null,"age":9007199254740993,"since":"2026-01-01T00:00:00Z"}"#, None),
    ("", Some(""), "{}", Some("new")),
];

/// Person, type, days ago, properties.
const EVENTS: [(&str, &str, i64, &str); 6] = [
    ("ada", "purchase", 0, r#"{"amount":49.9,"sku":"A"}"#),
    ("ada", "purchase", 2, r#"{"amount":50}"#),
    ("ada", "page.viewed", 40, r#"{"path":"/"}"#),
    ("bob", "purchase", 29, r#"{"amount":"50"}"#),
    ("cy", "page_viewed", 3, "{}"),
    ("nobody", "purchase", 1, "{}"),
];

pub fn run(data: &[u8]) {
    let (text, traits) = halves(data);
    let Ok(rule) = Rule::new(text) else { return };
    let traits = std::str::from_utf8(traits).ok().filter(|traits| json::check(traits.as_bytes()).is_ok());
    let population = PEOPLE.len() + usize::from(traits.is_some());
    let members = evaluate(rule, traits);
    // Only the bounds on levels and conditions can be in the way of one more `not`.
    if let Ok(inverse) = Rule::new(&[br#"{"not":"#, text, b"}"].concat()) {
        let others = evaluate(inverse, traits);
        assert_eq!(members.len() + others.len(), population, "a rule and its inverse must divide the people");
        assert!(members.iter().all(|name| !others.contains(name)), "nobody is in a rule and in its inverse");
    }
}

fn evaluate(rule: Rule, traits: Option<&str>) -> Vec<String> {
    let mut evaluation = Evaluation::new(Arc::new(rule), NOW_MS, false);
    evaluation.feed_events(&events()).expect("events were fed");
    evaluation.feed_profiles(&profiles(traits)).expect("profiles were fed");
    let mut members = Vec::new();
    let copy = evaluation.members().expect("both streams have ended");
    Reader::new(1)
        .feed(&copy, |row| {
            members.push(row.text(0)?.expect("a member has a name").to_owned());
            Ok(())
        })
        .expect("the list of members is a COPY stream");
    assert!(members.is_sorted(), "members are sorted");
    assert_eq!(evaluation.count(), Ok(members.len()));
    for name in PEOPLE.map(|(name, ..)| name).into_iter().chain([HOSTILE, "nobody"]) {
        let is_member = members.iter().any(|member| member == name);
        assert_eq!(evaluation.contains(name), Ok(is_member), "{name}: the question for one and the list must agree");
    }
    members
}

fn events() -> Vec<u8> {
    let mut writer = Writer::with_capacity(0);
    for (person, event_type, days, properties) in EVENTS {
        writer.row(4);
        writer.bytes(person.as_bytes());
        writer.bytes(event_type.as_bytes());
        writer.instant(NOW_MS - days * DAY_MS);
        writer.jsonb(properties.as_bytes());
    }
    writer.finish()
}

fn profiles(hostile: Option<&str>) -> Vec<u8> {
    let mut writer = Writer::with_capacity(0);
    for (name, email, traits, stage) in
        PEOPLE.into_iter().chain(hostile.map(|traits| (HOSTILE, Some("h@example.com"), traits, Some("at_risk"))))
    {
        writer.row(4);
        writer.bytes(name.as_bytes());
        writer.optional(email.map(str::as_bytes));
        writer.jsonb(traits.as_bytes());
        writer.optional(stage.map(str::as_bytes));
    }
    writer.finish()
}
