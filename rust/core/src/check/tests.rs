use super::*;
use crate::record::{self, Record, Records};

const NOW_MS: i64 = 1_780_000_000_000;

fn origin() -> Origin<'static> {
    Origin { tenant: Tenant { org: [1; 16], project: [2; 16] }, environment: "prod", received_ms: NOW_MS }
}

fn events(body: &str) -> Checked {
    check_events(body.as_bytes(), origin(), false)
}

fn records(checked: &Checked) -> Vec<record::Event<'_>> {
    Records(&checked.records)
        .map(|bytes| match record::read(bytes.unwrap()).unwrap().1 {
            Record::Event(event) => event,
            Record::Change(_) => panic!("an event is expected"),
        })
        .collect()
}

#[test]
fn a_single_event_keeps_its_words() {
    let checked = events(
        r#" {"eventType":"a\u00e9","module":"m","userId":"u","eventId":"e","timestamp":1,"timestamp ":0,"x":[{}],"properties": {"a" : 1} } "#,
    );
    assert_eq!(
        checked.errors,
        r#"[{"index":0,"fieldErrors":{"timestamp":["must lie between 2000-01-01 and one day from now"]}}]"#
    );
    let checked = events(
        r#" {"eventType":"a\u00e9","module":"m","userId":"u","eventId":"e","x":[{}],"properties": {"a" : 1}, "anonymousId": null } "#,
    );
    assert!(checked.single);
    assert_eq!((checked.accepted, checked.rejected, checked.errors.as_str()), (1, 0, "[]"));
    assert_eq!(checked.event_id.as_deref(), Some("e"));
    let event = records(&checked)[0];
    assert_eq!(
        (event.event_type, event.properties, event.environment),
        ("aé".as_bytes(), &br#"{"a" : 1}"#[..], &b"prod"[..])
    );
    assert_eq!((event.occurred_ms, event.anonymous), (NOW_MS, None));
}

#[test]
fn a_bad_item_never_fails_its_neighbours() {
    let good = r#"{"eventType":"a","module":"m"}"#;
    let body = format!(
        r#"{{"sentAt":1,"events":[{good},{{"eventType":"a","module":"m","properties":{{"b":1e999}}}},7,{{"module":3}},{good}]}}"#
    );
    let checked = events(&body);
    assert_eq!((checked.accepted, checked.rejected, checked.malformed.clone()), (2, 3, None));
    assert_eq!(
        checked.errors,
        concat!(
            r#"[{"index":1,"fieldErrors":{"properties.b":["the number is beyond the range of a double"]}},"#,
            r#"{"index":2,"fieldErrors":{"":["must be an object"]}},"#,
            r#"{"index":3,"fieldErrors":{"eventType":["Required"],"module":["must be a string"]}}]"#
        )
    );
    assert_eq!(records(&checked).len(), 2);
}

#[test]
fn bodies_that_are_no_list() {
    let malformed = |body: &str, listed| {
        let refused = check_events(body.as_bytes(), origin(), listed).malformed.unwrap();
        (refused.path, refused.message)
    };
    assert_eq!(malformed("[]", false), ("events".into(), "must not be empty".into()));
    assert_eq!(malformed(r#"{"events":[]}"#, true), ("events".into(), "must not be empty".into()));
    assert_eq!(malformed(r#"{"events":{}}"#, false), ("events".into(), "must be an array".into()));
    assert_eq!(malformed(r#"{"eventType":"a","module":"m"}"#, true), ("events".into(), "Required".into()));
    assert_eq!(malformed("3", false).1, "must be an object or an array");
    assert_eq!(
        malformed(r#"{"events":[{"eventType":"a","module":"m"}],"events":[]}"#, false),
        ("events".into(), "duplicate key".into())
    );
    assert_eq!(malformed(r#"{"a":1,"a":2,"events":[{"eventType":"a","module":"m"}]}"#, false).0, "a");
    assert_eq!(malformed(r#"[{"eventType":"a"},{"b":]"#, false).0, "1.b");
}

#[test]
fn counts_and_bytes_are_bounded() {
    let event = r#"{"eventType":"a","module":"m"}"#;
    let list = |n: usize| format!("[{}]", vec![event; n].join(","));
    assert_eq!(events(&list(1000)).accepted, 1000);
    assert!(events(&list(1001)).too_large.is_some());
    let big = format!(r#"{{"eventType":"a","module":"m","properties":{{"p":"{}"}}}}"#, "x".repeat(256 * 1024));
    assert!(events(&big).too_large.is_some());
    let checked = events(&format!("[{big},{event}]"));
    assert_eq!((checked.accepted, checked.rejected), (1, 1));
    assert!(checked.errors.starts_with(r#"[{"index":0,"code":"PAYLOAD_TOO_LARGE","#));
    let wide = |n: usize| {
        format!(
            r#"{{"eventType":"a","module":"m","properties":{{{}}}}}"#,
            (0..n).map(|i| format!("\"k{i}\":0")).collect::<Vec<_>>().join(",")
        )
    };
    assert_eq!(events(&wide(100)).accepted, 1);
    assert!(events(&wide(101)).errors.contains("at most 100 properties"));
    let long = |n: usize| {
        format!(r#"{{"eventType":"a","module":"m","properties":{{"d":{{"k":[{}]}}}}}}"#, vec!["0"; n].join(","))
    };
    assert_eq!(events(&long(1000)).accepted, 1);
    assert!(events(&long(1001)).errors.contains(r#""properties.d.k":["the array has too many items"]"#));
}

#[test]
fn an_identify_carries_the_profile() {
    let checked = check_identify(
        br#"{"userId":"u","anonymousId":"a","email":"e@x","traits":{"n":null},"timezone":"Europe/Berlin"}"#,
        origin(),
    );
    assert_eq!(checked.errors, "[]");
    let event = records(&checked)[0];
    let identify = event.identify.unwrap();
    assert_eq!(
        (event.event_type, identify.email, identify.timezone),
        (&b"user.identified"[..], Some(&b"e@x"[..]), Some(&b"Europe/Berlin"[..]))
    );
    let checked = check_identify(br#"{"email":"@x","timezone":"europe/berlin"}"#, origin());
    assert_eq!(
        checked.errors,
        r#"[{"index":0,"fieldErrors":{"userId":["Required"],"email":["must be an email address"],"timezone":["must be an IANA time zone"]}}]"#
    );
}

#[test]
fn another_tenant_is_refused() {
    let with = |id: &str| events(&format!(r#"{{"eventType":"a","module":"m","projectId":"{id}"}}"#)).accepted;
    assert_eq!(with("02020202-0202-0202-0202-020202020202"), 1);
    assert_eq!(with("02020202-0202-0202-0202-020202020203"), 0);
    assert_eq!(with("nonsense"), 0);
}
