//! Time zones by their IANA names, exactly spelled.
//!
//! jiff reads zone files from TZDIR or the system and falls back to the release in the binary, as Python's zoneinfo
//! falls back to the tzdata wheel; so both sides of the house agree.

use jiff::tz::TimeZone;

pub const NAME_CHARS_MAX: usize = 64;

/// None for a name that no release knows. jiff ignores case, PostgreSQL and Python do not: the spelling must be exact.
pub fn find(name: &str) -> Option<TimeZone> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-' | b'+');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.bytes().all(plain) {
        return None;
    }
    jiff::tz::db().get(name).ok().filter(|zone| zone.iana_name() == Some(name))
}
