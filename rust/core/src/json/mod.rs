//! Hostile JSON: judged once, before anything else decodes it.
//!
//! msgspec, PostgreSQL's jsonb and this crate must see the same document. What they would read differently, or what one
//! of them cannot hold, is refused here: duplicate keys, lone surrogates, U+0000, numbers beyond a double or beyond 64
//! bit, more than 32 levels. [`scan`] judges text from outside; [`raw`] reads text that was judged before.
//!
//! Faults are of two kinds. After a *hard* one (broken grammar) nobody knows where the value ends. A *soft* one leaves
//! the grammar intact, so that a list with one bad item still has good neighbours (C94).

mod raw;
mod scan;

pub use raw::{Kind, Members, Number, Raw, decode, items, quote};
pub use scan::{Fault, Limits, Scanner, path_at};

use crate::Refused;

/// Judges a whole request body.
pub fn check(body: &[u8]) -> Result<(), Refused> {
    let text = std::str::from_utf8(body).map_err(|_| Refused::new("", "invalid UTF-8"))?;
    let mut scanner = Scanner::new(text);
    let fault = match scanner.value().and_then(|_| scanner.end()) {
        Ok(()) => scanner.take_soft(),
        Err(hard) => Some(hard),
    };
    fault.map_or(Ok(()), |fault| Err(Refused::new(path_at(text, fault.at), fault.message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> (String, String) {
        let refused = check(body.as_bytes()).unwrap_err();
        (refused.path, refused.message)
    }

    #[test]
    fn takes_what_json_allows() {
        for body in
            ["1", " [ ] ", "{}", r#"{"a":[1,-0,1.5e3,true,null,"\u00e9\ud83d\ude00"]}"#, "9223372036854775807", "0.0"]
        {
            assert_eq!(check(body.as_bytes()), Ok(()), "{body}");
        }
        let deepest = format!("{}{}", "[".repeat(32), "]".repeat(32));
        assert_eq!(check(deepest.as_bytes()), Ok(()));
    }

    #[test]
    fn refuses_broken_grammar() {
        for body in [
            "",
            "{",
            "[1,]",
            "{\"a\" 1}",
            "01",
            "1.",
            "+1",
            "nul",
            "\"a",
            "\"\u{1}\"",
            "[1] 2",
            "NaN",
            "Infinity",
            "'a'",
            "\u{feff}1",
        ] {
            assert!(refused(body).1.starts_with("malformed JSON"), "{body}");
        }
    }

    #[test]
    fn names_the_place() {
        assert_eq!(refused(r#"{"a":{"b":[1,{"c":1,"c":2}]}}"#), ("a.b.1.c".into(), "duplicate key".into()));
        assert_eq!(refused(r#"{"a":1,"\u0061":2}"#).0, "a");
        assert_eq!(refused("[0,1e999]").0, "1");
        assert_eq!(refused(r#"{"n":9223372036854775808}"#).0, "n");
        assert_eq!(refused(r#"{"n":"\ud800"}"#), ("n".into(), "lone surrogate".into()));
        assert_eq!(refused(r#"{"n":"\u0000"}"#).0, "n");
        assert_eq!(refused(&format!("{}1{}", "[".repeat(33), "]".repeat(33))).1, "more than 32 levels");
    }

    #[test]
    fn refuses_what_postgres_cannot_keep_as_numeric() {
        for body in ["1e-400", "0e-20000", "1e99999999999999999999", &format!("0.{}1", "0".repeat(2000))] {
            assert!(!refused(body).1.is_empty(), "{body}");
        }
    }

    #[test]
    fn many_keys_are_not_quadratic() {
        let body: Vec<String> = (0..50_000).map(|i| format!("\"{i}\":0")).collect();
        let begun = std::time::Instant::now();
        assert_eq!(check(format!("{{{}}}", body.join(",")).as_bytes()), Ok(()));
        assert!(begun.elapsed().as_secs() < 5);
    }
}
