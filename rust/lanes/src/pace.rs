//! How fast a lane may go: as fast as it can until the provider says that it is too fast, then half of that, and from
//! there a little faster every second (AIMD).

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// However often a provider complains, this much is tried.
const RATE_MIN: f64 = 5.0;

/// Each second without a complaint adds this part of the rate at which the last one came.
const STEP: f64 = 0.05;

/// When the limit is so many times what is really sent, there is no limit.
const FREE: f64 = 4.0;

/// A wave of complaints is one: they are answers to what was under way.
const DEAF: Duration = SECOND;

/// A burst lasts so long at the limit's rate, so that one wake-up in some milliseconds is enough.
const BURST_S: f64 = 0.02;

#[derive(Debug)]
pub struct Pace {
    limit: Option<Limit>,
    /// What was sent in the second that runs, and in the one before.
    sent: u32,
    rate: f64,
    second_at: Instant,
    deaf_until: Instant,
}

#[derive(Debug)]
struct Limit {
    rate: f64,
    step: f64,
    tokens: f64,
    at: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { limit: None, sent: 0, rate: 0.0, second_at: now, deaf_until: now }
    }

    /// How many of `want` may leave now.
    pub fn take(&mut self, want: usize, now: Instant) -> usize {
        self.pass(now);
        let granted = match &mut self.limit {
            None => want,
            Some(limit) => {
                let elapsed = now.saturating_duration_since(limit.at).as_secs_f64();
                limit.tokens = (limit.tokens + elapsed * limit.rate).min((limit.rate * BURST_S).max(1.0));
                limit.at = now;
                let granted = want.min(limit.tokens as usize);
                limit.tokens -= granted as f64;
                granted
            }
        };
        self.sent += granted as u32;
        granted
    }

    /// When the next may leave, after `take` gave nothing.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let limit = self.limit.as_ref()?;
        Some(now + Duration::from_secs_f64(((1.0 - limit.tokens) / limit.rate).clamp(0.001, 1.0)))
    }

    /// The provider complains.
    pub fn complain(&mut self, now: Instant) {
        self.pass(now);
        if now < self.deaf_until {
            return;
        }
        self.deaf_until = now + DEAF;
        let so_far = now.saturating_duration_since(self.second_at).as_secs_f64();
        let sending = if so_far > 0.2 { f64::from(self.sent) / so_far } else { self.rate.max(f64::from(self.sent)) };
        let at = self.limit.as_ref().map_or(sending, |limit| limit.rate.min(sending.max(RATE_MIN)));
        self.limit = Some(Limit { rate: (at / 2.0).max(RATE_MIN), step: at * STEP, tokens: 0.0, at: now });
    }

    fn pass(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.second_at);
        if elapsed < SECOND {
            return;
        }
        self.rate = f64::from(self.sent) / elapsed.as_secs_f64();
        (self.sent, self.second_at) = (0, now);
        if let Some(limit) = &mut self.limit {
            limit.rate += limit.step * elapsed.as_secs_f64();
            if limit.rate > FREE * self.rate.max(RATE_MIN) {
                self.limit = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as much as it may for so long; how much that was.
    fn send(pace: &mut Pace, from: Instant, for_ms: u64) -> usize {
        (0..for_ms).map(|ms| pace.take(10, from + Duration::from_millis(ms))).sum()
    }

    #[test]
    fn halves_once_for_a_wave_and_recovers() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        assert_eq!(send(&mut pace, begun, 2_000), 20_000);
        let mut now = begun + Duration::from_secs(2);
        for _ in 0..50 {
            pace.complain(now);
        }
        let half = send(&mut pace, now, 1_000);
        assert!((4_500..5_500).contains(&half), "{half}");
        now += SECOND;
        for _ in 0..30 {
            send(&mut pace, now, 1_000);
            now += SECOND;
        }
        let more = send(&mut pace, now, 1_000);
        assert!(more > 9_000, "{more}");
    }

    #[test]
    fn never_stops() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        let mut now = begun;
        for _ in 0..100 {
            pace.complain(now);
            now += 2 * SECOND;
        }
        assert!(send(&mut pace, now, 1_000) >= RATE_MIN as usize - 1);
    }
}
