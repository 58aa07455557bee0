//! Quiet hours (B108, B109, C46): the window [start, end) of local hours, which wraps midnight.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::time::{DAY_MS, HOUR_MS};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    start: i64,
    end: i64,
}

impl Window {
    /// None when quiet hours are off: a bound is missing, or both are equal.
    pub fn new(start: Option<u8>, end: Option<u8>) -> Option<Self> {
        let (start, end) = (i64::from(start?), i64::from(end?));
        (start != end).then_some(Self { start, end })
    }

    /// (start, end)
    pub fn hours(self) -> (i64, i64) {
        (self.start, self.end)
    }

    fn holds(self, hour: i64) -> bool {
        if self.start < self.end {
            (self.start..self.end).contains(&hour)
        } else {
            hour >= self.start || hour < self.end
        }
    }

    /// None outside the window; inside, the first instant at which the local clock shows an hour outside it.
    ///
    /// Between two transitions local time is UTC plus a constant, so the end of the window is a subtraction. When a
    /// transition comes first, the clock jumps, and the question is asked again from there: right for gaps, folds and
    /// skipped days.
    pub fn ends(self, zone: &TimeZone, now_ms: i64) -> Option<i64> {
        let mut at_ms = now_ms;
        loop {
            let at = Timestamp::from_millisecond(at_ms).ok()?;
            let of_day = (at_ms + i64::from(zone.to_offset(at).seconds()) * 1_000).rem_euclid(DAY_MS);
            if !self.holds(of_day / HOUR_MS) {
                return (at_ms != now_ms).then_some(at_ms);
            }
            let end_ms = at_ms + (self.end * HOUR_MS - of_day).rem_euclid(DAY_MS);
            match zone.following(at).next() {
                // A jump at the very end counts too: it may put the clock back into the window.
                Some(jump) if jump.timestamp().as_millisecond() <= end_ms => at_ms = jump.timestamp().as_millisecond(),
                _ => return Some(end_ms),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::zones;
    use crate::time::parse;

    fn ends(zone: &str, start: u8, end: u8, now: &str) -> Option<String> {
        let window = Window::new(Some(start), Some(end)).unwrap();
        window.ends(&zones::find(zone).unwrap(), parse(now).unwrap()).map(crate::time::format)
    }

    #[test]
    fn wraps_midnight() {
        assert_eq!(ends("Europe/Berlin", 22, 7, "2025-01-10T21:00:00Z").unwrap(), "2025-01-11T06:00:00.000Z");
        assert_eq!(ends("Europe/Berlin", 22, 7, "2025-01-11T05:59:59.999Z").unwrap(), "2025-01-11T06:00:00.000Z");
        assert_eq!(ends("Europe/Berlin", 22, 7, "2025-01-11T06:00:00Z"), None);
        assert_eq!(ends("Asia/Kathmandu", 9, 12, "2025-01-11T04:00:00Z").unwrap(), "2025-01-11T06:15:00.000Z");
    }

    #[test]
    fn follows_the_clock_over_its_jumps() {
        // 02:00 does not exist on this day: the first instant after the gap.
        assert_eq!(ends("Europe/Berlin", 22, 2, "2025-03-29T23:00:00Z").unwrap(), "2025-03-30T01:00:00.000Z");
        // 02:00 exists twice: the clock leaves the window at the first.
        assert_eq!(ends("Europe/Berlin", 22, 2, "2025-10-25T22:00:00Z").unwrap(), "2025-10-26T00:00:00.000Z");
        // The clock is put back into the window before it could leave it.
        assert_eq!(ends("Europe/Berlin", 22, 3, "2025-10-25T22:00:00Z").unwrap(), "2025-10-26T02:00:00.000Z");
        // A whole day is skipped.
        assert_eq!(ends("Pacific/Apia", 22, 7, "2011-12-30T09:00:00Z").unwrap(), "2011-12-30T17:00:00.000Z");
    }

    #[test]
    fn off_without_two_bounds() {
        assert_eq!(Window::new(Some(1), Some(1)), None);
        assert_eq!(Window::new(Some(1), None), None);
    }
}
