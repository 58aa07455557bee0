//! How fast a lane may go after a provider asked for less: halved at once, raised a little every second (AIMD), and free
//! again when it is well above what was too much.
//!
//! A 429 may mean one device (Apple's always does) or the whole account, and Google's does not tell. So one is nobody's
//! but the recipient's, who waits by itself; the lane slows when a considerable share of its last answers are such.

use std::time::{Duration, Instant};

/// Answers of one moment ask for one cut, not for a hundred.
const CUT_EVERY: Duration = Duration::from_secs(1);

/// So many answers are remembered at most; when there are more, half of what they said is forgotten.
const RECENT: u32 = 128;

/// And none that is older.
const RECENT_FOR: Duration = Duration::from_secs(10);

/// Fewer refusals among them are some devices' own.
const REFUSED_MIN: u32 = 16;

/// From one in so many on, the provider wants nothing for the time that it names.
const MOST: u32 = 2;

/// Of the rate that was too much, a second: from a half to one and a half of it in less than ten seconds.
const RISE: f64 = 0.125;

/// Above so much of the rate that was too much the lane is free.
const FREE: f64 = 1.5;

pub(crate) struct Pace {
    /// Requests a second; `None`: no bound.
    rate: Option<f64>,
    /// The rate that was too much.
    ceiling: f64,
    tokens: f64,
    refilled: Instant,
    cut: Option<Instant>,
    heard: u32,
    refused: u32,
    hearing_since: Instant,
    counted: u32,
    counting_since: Instant,
    measured: f64,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self {
            rate: None,
            ceiling: 0.0,
            tokens: 0.0,
            refilled: now,
            cut: None,
            heard: 0,
            refused: 0,
            hearing_since: now,
            counted: 0,
            counting_since: now,
            measured: 0.0,
        }
    }

    /// How many of `want` may go now, and if none, when to ask again.
    pub fn allowance(&mut self, want: usize, now: Instant) -> (usize, Option<Instant>) {
        let (mut allowed, mut again) = (want, None);
        if let Some(rate) = self.rate {
            let passed = now.duration_since(self.refilled).as_secs_f64();
            self.refilled = now;
            let rate = rate + passed * self.ceiling * RISE;
            self.rate = (rate < self.ceiling * FREE).then_some(rate);
            // A tenth of a second may be made up for, not more: that would be the burst it asked us not to send.
            self.tokens = (self.tokens + rate * passed).min((rate / 10.0).max(1.0));
            if (self.tokens as usize) < allowed {
                allowed = self.tokens as usize;
                again = Some(now + Duration::from_secs_f64((1.0 / rate).clamp(0.005, 1.0)));
            }
        }
        (allowed, again)
    }

    pub fn spend(&mut self, sent: usize, now: Instant) {
        self.tokens = (self.tokens - sent as f64).max(0.0);
        self.counted += sent as u32;
        let passed = now.duration_since(self.counting_since).as_secs_f64();
        if passed >= 1.0 {
            self.measured = f64::from(self.counted) / passed;
            self.counted = 0;
            self.counting_since = now;
        }
    }

    /// So many answers, `refused` of them because it was too much; whether the provider refuses most of what it is sent.
    pub fn heard(&mut self, heard: u32, refused: u32, now: Instant) -> bool {
        if now.duration_since(self.hearing_since) >= RECENT_FOR {
            (self.heard, self.refused, self.hearing_since) = (0, 0, now);
        }
        self.heard += heard;
        self.refused += refused;
        while self.heard > RECENT {
            (self.heard, self.refused) = (self.heard / 2, self.refused / 2);
        }
        if refused == 0 || self.refused < REFUSED_MIN {
            return false;
        }
        self.cut(now);
        self.refused * MOST >= self.heard
    }

    fn cut(&mut self, now: Instant) {
        if self.cut.is_some_and(|cut| now.duration_since(cut) < CUT_EVERY) {
            return;
        }
        self.cut = Some(now);
        let rate = self.rate.unwrap_or_else(|| self.measured.max(f64::from(self.counted)));
        self.ceiling = rate.max(2.0);
        self.rate = Some(self.ceiling / 2.0);
        self.tokens = 0.0;
        self.refilled = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halved_at_once_and_free_again_within_ten_seconds() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.allowance(1_000, start), (1_000, None));
        pace.spend(1_000, start);
        assert!(!pace.heard(100, 30, start), "a third is not most");
        assert!(pace.heard(100, 100, start), "two thirds are");
        assert!(!pace.heard(400, 100, start), "a quarter of the last is not, whatever was before");
        let mut sent = [0; 10];
        for tick in 1..1_000_u32 {
            let now = start + Duration::from_millis(10) * tick;
            let (allowed, _) = pace.allowance(100, now);
            pace.spend(allowed, now);
            sent[tick as usize / 100] += allowed;
        }
        assert!((450..650).contains(&sent[0]), "{sent:?}");
        assert!(sent[3] > sent[0]);
        assert!(sent[9] >= 9_000, "{sent:?}");
    }

    #[test]
    fn a_few_devices_slow_nobody_down() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for second in 0..60 {
            let now = start + CUT_EVERY * second;
            assert!(!pace.heard(RECENT / 2, 3, now), "too small a share");
            assert_eq!(pace.allowance(1_000, now), (1_000, None));
        }
        let later = start + CUT_EVERY * 60 + RECENT_FOR;
        assert!(!pace.heard(REFUSED_MIN - 1, REFUSED_MIN - 1, later), "too few to tell");
        assert_eq!(pace.allowance(1_000, later), (1_000, None));
    }
}
