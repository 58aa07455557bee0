//! What a provider answers: the transport, the status, the try it was, two lines of headers (Retry-After; the id), and
//! behind a zero byte the body. Then the same body as a browser's subscription.
//!
//! Whatever is said becomes one outcome with a name, a wait lies ahead and within bounds, and the ledger's row holds
//! text that PostgreSQL takes.

use sendora_core::outcome::{Chunk, Outcome, OutcomeBatch, Ruling, State};
use sendora_core::pgcopy::{Reader, Writer};
use sendora_core::providers::answer::{self, read};
use sendora_core::providers::{Transport, webpush};
use sendora_core::retry::{TRIES_MAX, Terms, settle};
use sendora_core::time::DAY_MS;

use super::{NOW_MS, halves};

const COLUMNS: usize = 15;
const TEXT_CHARS_MAX: usize = 500;
const CHUNK: Chunk = Chunk { org: [1; 16], send: [2; 16], shard: 3, seq: 4, attempt: 1 };

pub fn run(data: &[u8]) {
    let Some((&[transport, high, low, tries], rest)) = data.split_first_chunk::<4>() else { return };
    let transport = [Transport::Apns, Transport::Fcm, Transport::WebPush][usize::from(transport % 3)];
    let (head, body) = halves(rest);
    let Ok(head) = std::str::from_utf8(head) else { return };
    let mut lines = head.splitn(2, '\n');
    let (retry_after, id) = (lines.next(), lines.next());
    let header = |name: &str| if name == "retry-after" { retry_after } else { id };
    let tries = i16::from(tries) % TRIES_MAX + 1;

    let status = u16::from_be_bytes([high, low]);
    let verdict = read(transport, status, header, body);
    let taken = verdict.state == answer::State::Accepted;
    assert!(!taken || (200..=202).contains(&status), "only a success is one");
    assert_eq!(verdict.state == answer::State::Deferred, !taken && verdict.retry.is_some() && !is_damaged(&verdict));
    for chance in [0.0, 0.999] {
        let ruling = Ruling::answered(verdict.clone(), tries, NOW_MS, chance);
        if let Some(due_ms) = ruling.due_ms {
            assert!((NOW_MS..=NOW_MS + DAY_MS).contains(&due_ms), "a wait lies ahead, and a day at most");
        }
        for (at_most_once, unanswered) in [(false, None), (false, Some("worker_lost")), (true, Some("no_answer"))] {
            let terms = Terms { tries, at_most_once, expires_ms: NOW_MS + DAY_MS / 24 };
            let settled = settle(ruling.clone(), &terms, unanswered, true);
            assert!(taken || settled.state != State::Accepted, "what was refused is not accepted later");
            assert_eq!(settled.state == State::Deferred, settled.due_ms.is_some());
            assert!(settled.due_ms.is_none_or(|due_ms| due_ms < terms.expires_ms), "nothing goes on after its end");
            is_a_row(settled);
        }
    }

    let Ok(text) = std::str::from_utf8(body) else { return };
    let _ = webpush::Keys::of_subscription(text);
    let (origin, path) = webpush::split(text);
    assert!(text.len() <= origin.len() + path.len(), "an endpoint is cut in two, and nothing is lost");
}

fn is_damaged(verdict: &answer::Verdict<'_>) -> bool {
    verdict.state == answer::State::Damaged
}

fn is_a_row(ruling: Ruling<'_>) {
    let deferred = ruling.state == State::Deferred;
    let mut batch = OutcomeBatch::new(CHUNK);
    batch.push(&Outcome {
        position: 7,
        recipient: [9; 16],
        user_id: Some("ada"),
        variant: None,
        provider: Some("apns"),
        ruling,
    });
    assert_eq!(batch.follow_up().len(), usize::from(deferred), "who waits goes on as a chunk");
    let mut copy = Writer::with_capacity(0);
    batch.write(&mut copy, NOW_MS * 1_000);
    let mut reader = Reader::new(COLUMNS);
    let fed = reader.feed(&copy.finish(), |row| {
        for column in 6..12 {
            let text = row.text(column)?.unwrap_or_default();
            assert!(!text.contains('\0') && text.chars().count() <= TEXT_CHARS_MAX, "text for Postgres, and no novel");
        }
        Ok(())
    });
    assert_eq!(fed.and_then(|()| reader.finish()), Ok(()));
}
