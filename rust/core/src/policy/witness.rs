//! Why a decision came out as it did, told by the code that takes it (promise 4).
//!
//! The deciding functions tell a witness what they look at and what they find. A chunk is decided before [`Nobody`], which
//! costs nothing; an explanation before a list of [`Value`]s, one for each step in the order in which they were taken. A
//! step names itself in `step`, and `passed` says whether the recipient went on to the next.

use serde_json::{Value, json};

use super::decide::Decided;
use super::note::Note;
use crate::policy::caps::Caps;
use crate::{Broken, time};

pub trait Witness {
    /// `step` is made only for who listens.
    fn saw(&mut self, step: impl FnOnce() -> Value);
}

pub struct Nobody;

impl Witness for Nobody {
    fn saw(&mut self, _: impl FnOnce() -> Value) {}
}

impl Witness for Vec<Value> {
    fn saw(&mut self, step: impl FnOnce() -> Value) {
        self.push(step());
    }
}

impl Note {
    /// The decision on one recipient, and its steps: `{state, reason, dueAt, variant, steps}`. `rows` and `caps` as
    /// `decide` takes them; the state is `send` for who would be sent to.
    pub fn explain(&self, rows: &[u8], caps: Option<&mut Caps>, now_ms: i64) -> Result<Value, Broken> {
        let mut steps: Vec<Value> = Vec::new();
        let decided = self.decide_before(rows, caps, now_ms, &[], &mut steps)?;
        let (state, reason, due_ms, variant) = verdict(&decided)?;
        Ok(json!({
            "state": state,
            "reason": reason,
            "dueAt": due_ms.map(time::format),
            "variant": variant,
            "steps": steps,
        }))
    }
}

type Verdict<'d> = (&'static str, Option<&'static str>, Option<i64>, Option<&'d str>);

fn verdict(decided: &Decided) -> Result<Verdict<'_>, Broken> {
    match (decided.calls.as_slice(), decided.stays.as_slice()) {
        ([call], []) => Ok(("send", None, None, decided.optional(call.variant))),
        ([], [stay]) => Ok((stay.state.name(), Some(stay.reason), stay.due_ms, decided.optional(stay.variant))),
        _ => Err(Broken("an explanation is of one recipient")),
    }
}
