//! A text as the builders in Python wrote it for nobody in particular, cut where a recipient's own words belong.
//!
//! The builder is called once with marks for words. A mark is private-use characters around a number that nobody can
//! guess, and within it stands a line feed: a line feed is written as it is in a header, as `\n` in a JSON string and
//! as `\\n` in JSON within a JSON string, so that a mark shows how often its words have to be escaped. Words of digits
//! and letters alone (ids, seconds) have plain marks, found as they are.

use std::collections::HashMap;

use crate::Refused;

/// JSON within JSON within JSON: nobody writes more.
const DEPTH_MAX: u32 = 3;

/// What a recipient's word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    Title,
    Body,
    Token,
    Bundle,
    /// The VAPID token of the endpoint's origin.
    Proof,
    /// The recipient's id in hexadecimal.
    Recipient,
    /// The id of the request, the same on every try.
    RequestId,
    /// Seconds that are left of the send's time.
    Ttl,
    /// The second at which the send's time ends, or the present one when it has.
    Expires,
    /// A text beside title and body that has placeholders.
    Extra(u16),
}

impl Slot {
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "title" => Self::Title,
            "body" => Self::Body,
            "token" => Self::Token,
            "bundle" => Self::Bundle,
            "proof" => Self::Proof,
            "recipient" => Self::Recipient,
            "requestId" => Self::RequestId,
            "ttl" => Self::Ttl,
            "expires" => Self::Expires,
            _ => return None,
        })
    }
}

/// How the marks of one compilation look.
pub struct Marks {
    /// What stands before a mark's line feed and number, and after them.
    open: String,
    close: char,
    slots: Vec<Slot>,
    plain: HashMap<String, Slot>,
}

impl Marks {
    pub fn new(open: &str, close: char, slots: Vec<Slot>, plain: HashMap<String, Slot>) -> Result<Self, Refused> {
        if open.is_empty() || plain.keys().any(String::is_empty) {
            return Err(Refused::new("marks", "must not be empty"));
        }
        Ok(Self { open: open.to_owned(), close, slots, plain })
    }

    /// The first mark: what stands before it, what it is, how often it is escaped, and what stands behind it.
    fn split<'t>(&self, text: &'t str) -> Result<Option<(&'t str, Segment, &'t str)>, Refused> {
        let mut first: Option<(usize, usize, Slot)> = None;
        for (mark, slot) in &self.plain {
            if let Some(at) = text.find(mark.as_str())
                && first.is_none_or(|(before, ..)| at < before)
            {
                first = Some((at, at + mark.len(), *slot));
            }
        }
        if let Some(at) = text.find(&self.open)
            && first.is_none_or(|(before, ..)| at < before)
        {
            let broken = || Refused::new("marks", "a mark was cut");
            let inner = &text[at + self.open.len()..];
            let end = inner.find(self.close).ok_or_else(broken)?;
            let backslashes = inner.bytes().take_while(|&byte| byte == b'\\').count();
            let number = inner[..end].get(backslashes + 1..).and_then(|number| number.parse::<usize>().ok());
            let slot = number.and_then(|number| self.slots.get(number)).ok_or_else(broken)?;
            // 0, 1, 2, 4, .. backslashes: each level writes twice those of the level before it.
            let depth = if backslashes == 0 { 0 } else { backslashes.ilog2() + 1 };
            if depth > DEPTH_MAX {
                return Err(Refused::new("marks", "a mark lies too deep"));
            }
            let behind = &inner[end + self.close.len_utf8()..];
            return Ok(Some((&text[..at], Segment { literal_to: 0, slot: *slot, depth }, behind)));
        }
        Ok(first.map(|(from, to, slot)| (&text[..from], Segment { literal_to: 0, slot, depth: 0 }, &text[to..])))
    }
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    /// The literal before the slot ends here.
    literal_to: u32,
    slot: Slot,
    depth: u32,
}

#[derive(Debug, Default)]
pub struct Shape {
    /// All literals behind one another.
    literals: String,
    segments: Vec<Segment>,
}

/// Gives the word for a slot.
pub trait Words {
    fn word(&self, slot: Slot) -> &str;
}

impl Shape {
    pub fn new(text: &str, marks: &Marks) -> Result<Self, Refused> {
        let mut shape = Self::default();
        let mut rest = text;
        while let Some((before, segment, behind)) = marks.split(rest)? {
            shape.literals.push_str(before);
            shape.segments.push(Segment { literal_to: shape.literals.len() as u32, ..segment });
            rest = behind;
        }
        shape.literals.push_str(rest);
        Ok(shape)
    }

    /// The whole text, when it is the same for everybody.
    pub fn fixed(&self) -> Option<&str> {
        self.segments.is_empty().then_some(self.literals.as_str())
    }

    pub fn literal_bytes(&self) -> usize {
        self.literals.len()
    }

    pub fn has(&self, slot: Slot) -> bool {
        self.segments.iter().any(|segment| segment.slot == slot)
    }

    pub fn fill(&self, words: &impl Words, out: &mut String) {
        let mut from = 0;
        for segment in &self.segments {
            let to = segment.literal_to as usize;
            out.push_str(&self.literals[from..to]);
            escape(words.word(segment.slot), segment.depth, out);
            from = to;
        }
        out.push_str(&self.literals[from..]);
    }

    /// Whether the filled text has more bytes than this. Most are far below it, and then nothing is counted exactly.
    pub fn exceeds(&self, words: &impl Words, bytes_max: usize) -> bool {
        let most = |depth: u32| [1, ESCAPED_MAX, 2 * ESCAPED_MAX, 4 * ESCAPED_MAX][depth.min(DEPTH_MAX) as usize];
        let slots = self.segments.iter();
        let bound: usize = slots.map(|segment| words.word(segment.slot).len() * most(segment.depth)).sum();
        if self.literals.len() + bound <= bytes_max {
            return false;
        }
        let mut out = String::with_capacity(bytes_max);
        self.fill(words, &mut out);
        out.len() > bytes_max
    }
}

/// Bytes of one byte's escape, `\u0000`; the next level doubles its backslash and no more, and so on.
const ESCAPED_MAX: usize = 6;

/// Appends the text as JSON writes it within a string, so often as `depth` says.
pub fn escape(text: &str, depth: u32, out: &mut String) {
    match depth {
        0 => out.push_str(text),
        1 => escape_once(text, out),
        _ => {
            let mut once = String::with_capacity(text.len());
            escape_once(text, &mut once);
            escape(&once, depth - 1, out);
        }
    }
}

/// As msgspec does: short escapes where JSON has them, `\u00xx` for other controls, everything else as it is.
fn escape_once(text: &str, out: &mut String) {
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(at) = find_special(bytes, from) {
        out.push_str(&text[from..at]);
        match bytes[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            other => {
                out.push_str("\\u00");
                out.push(char::from(HEX[usize::from(other >> 4)]));
                out.push(char::from(HEX[usize::from(other & 15)]));
            }
        }
        from = at + 1;
    }
    out.push_str(&text[from..]);
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The next byte that JSON escapes: eight are looked at in one step, because nearly none is.
fn find_special(bytes: &[u8], from: usize) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    let mut at = from;
    while let Some(eight) = bytes.get(at..at + 8) {
        let word = u64::from_ne_bytes([eight[0], eight[1], eight[2], eight[3], eight[4], eight[5], eight[6], eight[7]]);
        // A byte below n borrows from its highest bit; a byte that is beyond 127 has that bit and is none of these.
        let below = |word: u64, n: u8| word.wrapping_sub(ONES * u64::from(n)) & !word;
        let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        if (below(word, 0x20) | equal(b'"') | equal(b'\\')) & HIGHS != 0 {
            // A borrow may have gone on into the next byte, so each is asked again.
            if let Some(found) = eight.iter().position(|&byte| special(byte)) {
                return Some(at + found);
            }
        }
        at += 8;
    }
    bytes[at..].iter().position(|&byte| special(byte)).map(|found| at + found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Same<'a>(&'a str);

    impl Words for Same<'_> {
        fn word(&self, _: Slot) -> &str {
            self.0
        }
    }

    fn marks() -> Marks {
        let plain = HashMap::from([("feedface".to_owned(), Slot::Recipient)]);
        Marks::new("\u{e000}77", '\u{e001}', vec![Slot::Title, Slot::Body], plain).unwrap()
    }

    #[test]
    fn a_mark_shows_its_depth() {
        let mark = "\u{e000}77\n1\u{e001}";
        let once = serde_json::to_string(mark).unwrap();
        let twice = serde_json::to_string(&format!("[{once}]")).unwrap();
        let thrice = serde_json::to_string(&format!("[{twice}]")).unwrap();
        for (text, depth) in [(mark, 0), (&once, 1), (&twice, 2), (&thrice, 3)] {
            let shape = Shape::new(text, &marks()).unwrap();
            assert_eq!((shape.segments.len(), shape.segments[0].depth), (1, depth));
            assert!(shape.has(Slot::Body) && !shape.has(Slot::Title) && shape.fixed().is_none());
        }
        let deepest = serde_json::to_string(&thrice).unwrap();
        assert!(Shape::new(&deepest, &marks()).is_err());
        assert!(Shape::new("\u{e000}77\n9\u{e001}", &marks()).is_err());
        assert!(Shape::new("\u{e000}77\n", &marks()).is_err());
        assert_eq!(Shape::new("plain", &marks()).unwrap().fixed(), Some("plain"));
    }

    proptest! {
        #[test]
        fn filling_is_encoding(before in ".{0,9}", word in "(?s).{0,40}|[\\x00-\\x22\\\\é]{0,40}", behind in ".{0,9}") {
            let json = |word: &str| {
                let inner = serde_json::to_string(&format!("{word}{before}")).unwrap();
                serde_json::to_string(&[before.as_str(), word, &inner, "feedface", behind.as_str()]).unwrap()
            };
            let shape = Shape::new(&json("\u{e000}77\n0\u{e001}"), &marks()).unwrap();
            let mut out = String::new();
            let recipient: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
            struct Two<'a>(&'a str, &'a str);
            impl Words for Two<'_> {
                fn word(&self, slot: Slot) -> &str {
                    if slot == Slot::Title { self.0 } else { self.1 }
                }
            }
            let words = Two(&word, &recipient);
            shape.fill(&words, &mut out);
            prop_assert_eq!(&out, &json(&word).replace("feedface", &recipient));
            for max in [out.len().saturating_sub(1), out.len(), out.len() + 1] {
                prop_assert_eq!(shape.exceeds(&words, max), out.len() > max);
            }
        }

        #[test]
        fn special_bytes_are_found(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let slow = bytes.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
            prop_assert_eq!(find_special(&bytes, 0), slow);
        }
    }

    #[test]
    fn one_word_in_every_place() {
        let shape = Shape::new("a\u{e000}77\n0\u{e001}b\u{e000}77\n1\u{e001}", &marks()).unwrap();
        let mut out = String::new();
        shape.fill(&Same("\"x"), &mut out);
        assert_eq!(out, "a\"xb\"x");
    }
}
