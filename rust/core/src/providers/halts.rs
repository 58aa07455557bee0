//! When a credential is refused whoever the recipient is, the rest of the send is not tried (F-V11): the memory of
//! `modules/push/halts.py`, for answers that are read here.

use std::collections::HashMap;
use std::sync::Arc;

use super::answer::{State, Verdict};
use crate::Id;

/// Identical refusals in a row, without a single other answer between them.
pub const REFUSALS_MAX: u32 = 100;

/// Sends and lanes that are remembered; who is forgotten is refused another hundred times.
const KEPT_MAX: usize = 10_000;

/// A send, and the millisecond at which it was last retried, or 0: whoever retries may have mended what was refused.
pub type Since = (Id, i64);

/// What one process has heard, by send and lane.
#[derive(Debug, Default)]
pub struct Halts {
    refusals: HashMap<(Since, Arc<str>), (String, u32)>,
}

impl Halts {
    /// Takes an answer in; true when it is the one that halts the send on this lane.
    pub fn heard(&mut self, send: Since, lane: &Arc<str>, verdict: &Verdict<'_>) -> bool {
        if matches!(verdict.state, State::Deferred | State::Damaged) {
            return false; // No word about the credential.
        }
        let reason = verdict.reason.as_deref().filter(|_| verdict.hopeless);
        if reason.is_none() && self.refusals.is_empty() {
            return false; // As nearly always.
        }
        let key = (send, Arc::clone(lane));
        if self.refusals.get(&key).is_some_and(|(_, n)| *n >= REFUSALS_MAX) {
            return false; // Halted already.
        }
        let Some(reason) = reason else {
            self.refusals.remove(&key);
            return false;
        };
        if self.refusals.len() >= KEPT_MAX && !self.refusals.contains_key(&key) {
            self.refusals.clear();
        }
        let (last, n) = self.refusals.entry(key).or_default();
        if last == reason {
            *n += 1;
        } else {
            reason.clone_into(last);
            *n = 1;
        }
        *n >= REFUSALS_MAX
    }

    /// Why nobody is asked any more; None while somebody is.
    pub fn reason(&self, send: Since, lane: &Arc<str>) -> Option<&str> {
        let (reason, n) = self.refusals.get(&(send, Arc::clone(lane)))?;
        (*n >= REFUSALS_MAX).then_some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::Transport;
    use crate::providers::answer::read;

    #[test]
    fn a_hundred_equal_refusals_halt() {
        let mut halts = Halts::default();
        let lane: Arc<str> = "apns:x:production".into();
        let heard = |halts: &mut Halts, status, body: &str| {
            halts.heard(([1; 16], 0), &lane, &read(Transport::Apns, status, |_| None, body.as_bytes()))
        };
        let refused = r#"{"reason":"InvalidProviderToken"}"#;
        for _ in 1..REFUSALS_MAX {
            assert!(!heard(&mut halts, 403, refused));
            assert!(!heard(&mut halts, 503, ""), "no word about the credential");
        }
        assert!(!heard(&mut halts, 410, r#"{"reason":"Unregistered"}"#), "another answer between them");
        for _ in 1..REFUSALS_MAX {
            assert!(!heard(&mut halts, 403, refused));
        }
        assert_eq!(halts.reason(([1; 16], 0), &lane), None);
        assert!(heard(&mut halts, 403, refused));
        assert!(!heard(&mut halts, 403, refused) && !heard(&mut halts, 200, ""));
        assert_eq!(halts.reason(([1; 16], 0), &lane), Some("InvalidProviderToken"));
        assert_eq!(halts.reason(([2; 16], 0), &lane), None);
        assert_eq!(halts.reason(([1; 16], 5), &lane), None, "retried since");
    }
}
