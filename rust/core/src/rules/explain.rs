//! Why a person is in an audience or not: the tree as it is written, each node with its truth, each leaf with what was
//! observed and the instant at which time alone will change it.
//!
//! Observed is only what the leaf's window holds, because that is all that an evaluation has read; instants are whole
//! seconds, because that is all that a rule looks at. So both engines say the same.

use std::fmt::Write;

use super::{EventLeaf, Node, Rule};
use crate::time::{self, SECOND_MS};

/// What one engine has found out about one leaf.
#[derive(Debug)]
pub(crate) struct Seen {
    /// None: this engine does not know.
    pub truth: Option<bool>,
    pub observed: Observed,
    pub turning_ms: Option<i64>,
}

#[derive(Debug)]
pub(crate) enum Observed {
    Unknown,
    /// A value as JSON; None: missing.
    Value(Option<String>),
    Count(u32),
    Last(Option<i64>),
}

impl Seen {
    pub fn unknown() -> Self {
        Self { truth: None, observed: Observed::Unknown, turning_ms: None }
    }

    /// `latest` is the last event in the window, `nth` the instant of the event with so many later ones in it.
    pub fn of_events(leaf: &EventLeaf, count: u32, latest: Option<i64>, nth: impl Fn(u32) -> Option<i64>) -> Self {
        let turns_at = leaf.compare.turns_at();
        // Time takes events out of a window and puts none in: only a count that is high enough can turn.
        let turning = if turns_at > 0 && count >= turns_at { nth(turns_at - 1) } else { None };
        Self {
            truth: Some(leaf.compare.holds(count)),
            observed: if leaf.counts { Observed::Count(count) } else { Observed::Last(latest) },
            turning_ms: turning.and_then(|event_ms| leaf.since.leaves_at(event_ms)),
        }
    }
}

/// `{"member", "asOf", "tree"}`; a truth is null where the engine does not know.
pub(crate) fn explain(rule: &Rule, now_ms: i64, seen: impl Fn(usize) -> Seen) -> String {
    let mut tree = String::new();
    let member = node(rule, &rule.root, "", &seen, &mut tree);
    let mut out = String::with_capacity(tree.len() + 80);
    out.push_str("{\"member\":");
    truth(&mut out, member);
    out.push_str(",\"asOf\":\"");
    out.push_str(&time::format(now_ms));
    out.push_str("\",\"tree\":");
    out.push_str(&tree);
    out.push('}');
    out
}

fn node(rule: &Rule, at: &Node, path: &str, seen: &impl Fn(usize) -> Seen, out: &mut String) -> Option<bool> {
    let (name, nodes) = match at {
        Node::All(nodes) => ("all", nodes.as_slice()),
        Node::Any(nodes) => ("any", nodes.as_slice()),
        Node::Not(inner) => ("not", std::slice::from_ref(&**inner)),
        Node::Leaf(number) => return leaf(rule, *number, seen(*number), out),
    };
    let inner = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let mut nodes_out = String::new();
    let mut truths = Vec::with_capacity(nodes.len());
    for (i, child) in nodes.iter().enumerate() {
        if i > 0 {
            nodes_out.push(',');
        }
        let place = if name == "not" { inner.clone() } else { format!("{inner}.{i}") };
        truths.push(node(rule, child, &place, seen, &mut nodes_out));
    }
    let held = match at {
        Node::All(_) => fold(&truths, false),
        Node::Any(_) => fold(&truths, true),
        _ => truths[0].map(|held| !held),
    };
    let _ = write!(out, "{{\"path\":\"{path}\",\"truth\":");
    truth(out, held);
    let _ =
        if name == "not" { write!(out, ",\"not\":{nodes_out}}}") } else { write!(out, ",\"{name}\":[{nodes_out}]}}") };
    held
}

/// One `decisive` truth decides; an unknown one leaves it open.
fn fold(truths: &[Option<bool>], decisive: bool) -> Option<bool> {
    if truths.contains(&Some(decisive)) {
        Some(decisive)
    } else if truths.contains(&None) {
        None
    } else {
        Some(!decisive)
    }
}

fn leaf(rule: &Rule, number: usize, seen: Seen, out: &mut String) -> Option<bool> {
    let leaf = &rule.leaves[number];
    let _ = write!(out, "{{\"path\":\"{}\",\"truth\":", leaf.path);
    truth(out, seen.truth);
    let _ = write!(out, ",\"condition\":{},\"observed\":", leaf.source);
    let _ = match seen.observed {
        Observed::Unknown => write!(out, "null"),
        Observed::Value(value) => write!(out, "{{\"value\":{}}}", value.as_deref().unwrap_or("null")),
        Observed::Count(count) => write!(out, "{{\"count\":{count}}}"),
        Observed::Last(last) => {
            out.push_str("{\"last\":");
            instant(out, last.map(|ms| ms.div_euclid(SECOND_MS) * SECOND_MS));
            write!(out, "}}")
        }
    };
    out.push_str(",\"flipsAt\":");
    instant(out, seen.turning_ms);
    out.push('}');
    seen.truth
}

fn truth(out: &mut String, truth: Option<bool>) {
    out.push_str(match truth {
        Some(true) => "true",
        Some(false) => "false",
        None => "null",
    });
}

fn instant(out: &mut String, ms: Option<i64>) {
    match ms {
        Some(ms) => {
            let _ = write!(out, "\"{}\"", time::format(ms));
        }
        None => out.push_str("null"),
    }
}
