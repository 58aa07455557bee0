//! The strict pull parser: one pass, no tree, no allocation for ordinary objects.

use std::borrow::Cow;
use std::collections::HashSet;

use super::raw::{Raw, decode};

/// Deep enough for any honest document, and far from every parser's stack.
const LEVELS_MAX: u32 = 32;
/// Up to here keys are compared one by one; beyond, by a set with a random key, so that nobody can make it slow.
const KEYS_COMPARED: usize = 16;
/// A double needs 24 characters; a longer literal only means to overflow something behind us.
const NUMBER_CHARS_MAX: usize = 1024;
/// Beyond any double. Postgres' numeric would keep such an exponent, even of zero, in full or refuse it.
const EXPONENT_MAX: i32 = 1000;

/// Where the text stopped making sense, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub at: usize,
    pub message: &'static str,
}

/// What a value may hold at most; set around a client's own properties.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub items: usize,
    pub name_chars: usize,
}

impl Limits {
    pub const NONE: Self = Self { items: usize::MAX, name_chars: usize::MAX };
}

type Scan<T> = Result<T, Fault>;

pub struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    level: u32,
    soft: Option<Fault>,
    limits: Limits,
    /// The keys of all objects that are open, innermost last: one buffer for the whole document.
    keys: Vec<Cow<'a, str>>,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0, level: 0, soft: None, limits: Limits::NONE, keys: Vec::new() }
    }

    /// The first byte of the next value.
    pub fn peek(&mut self) -> Option<u8> {
        self.space();
        self.bytes.get(self.at).copied()
    }

    /// Where the next value begins, or the last one ended.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The first soft fault since it was last taken.
    pub fn take_soft(&mut self) -> Option<Fault> {
        self.soft.take()
    }

    /// Puts back an earlier fault that was taken; the first one counts.
    pub fn restore(&mut self, earlier: Option<Fault>) {
        self.soft = earlier.or(self.soft);
    }

    /// Only white space may be left.
    pub fn end(&mut self) -> Scan<()> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.hard("malformed JSON: something follows the document")),
        }
    }

    /// Judges the next value, whatever it is.
    pub fn value(&mut self) -> Scan<Raw<'a>> {
        self.space();
        let from = self.at;
        match self.bytes.get(from) {
            Some(b'{') => self.object(|scanner, _| scanner.value().map(drop))?,
            Some(b'[') => self.array(|scanner, _| scanner.value().map(drop))?,
            Some(b'"') => self.string()?,
            Some(b't') => self.word("true")?,
            Some(b'f') => self.word("false")?,
            Some(b'n') => self.word("null")?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            _ => return Err(self.hard("malformed JSON: a value is expected")),
        }
        Ok(Raw::trusted(&self.text[from..self.at]))
    }

    /// Judges the next value under limits, and counts the members when it is an object.
    pub fn limited(&mut self, limits: Limits) -> Scan<(Raw<'a>, usize)> {
        self.limits = limits;
        self.space();
        let from = self.at;
        let mut members = 0;
        if self.bytes.get(from) == Some(&b'{') {
            self.object(|scanner, _| {
                members += 1;
                scanner.value().map(drop)
            })?;
        } else {
            self.value()?;
        }
        self.limits = Limits::NONE;
        Ok((Raw::trusted(&self.text[from..self.at]), members))
    }

    /// Walks an object; `each` must read the value of its key.
    pub fn object(&mut self, mut each: impl FnMut(&mut Self, &Cow<'a, str>) -> Scan<()>) -> Scan<()> {
        if self.enter()? {
            return Ok(());
        }
        let base = self.keys.len();
        let mut many: Option<HashSet<Cow<'a, str>>> = None;
        if self.peek() == Some(b'}') {
            self.leave();
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.hard("malformed JSON: a key is expected"));
            }
            let from = self.at;
            self.string()?;
            let key = decode(&self.text[from..self.at]);
            if self.limits.name_chars != usize::MAX
                && key.len() > self.limits.name_chars
                && key.chars().count() > self.limits.name_chars
            {
                self.note(from, "the name is too long");
            }
            let repeated = match &mut many {
                None if self.keys.len() - base < KEYS_COMPARED => self.keys[base..].contains(&key),
                None => {
                    let mut seen: HashSet<Cow<'a, str>> = self.keys[base..].iter().cloned().collect();
                    let repeated = !seen.insert(key.clone());
                    many = Some(seen);
                    repeated
                }
                Some(seen) => !seen.insert(key.clone()),
            };
            if repeated {
                self.note(from, "duplicate key");
            }
            if self.peek() != Some(b':') {
                return Err(self.hard("malformed JSON: a colon is expected"));
            }
            self.at += 1;
            each(self, &key)?;
            if many.is_none() {
                self.keys.push(key);
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.hard("malformed JSON: a comma or the end of the object is expected")),
            }
        }
        self.keys.truncate(base);
        self.leave();
        Ok(())
    }

    /// Walks an array; `each` must read one value and is told its index.
    pub fn array(&mut self, mut each: impl FnMut(&mut Self, usize) -> Scan<()>) -> Scan<()> {
        let from = self.at;
        if self.enter()? {
            return Ok(());
        }
        if self.peek() == Some(b']') {
            self.leave();
            return Ok(());
        }
        let mut index = 0;
        loop {
            each(self, index)?;
            index += 1;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.hard("malformed JSON: a comma or the end of the array is expected")),
            }
        }
        if index > self.limits.items {
            self.note(from, "the array has too many items");
        }
        self.leave();
        Ok(())
    }

    /// Steps over the bracket. True when that was one level too deep and the whole value was skipped instead.
    fn enter(&mut self) -> Scan<bool> {
        self.space();
        if self.level == LEVELS_MAX {
            self.note(self.at, "more than 32 levels");
            self.skip_deep()?;
            return Ok(true);
        }
        self.level += 1;
        self.at += 1;
        Ok(false)
    }

    fn leave(&mut self) {
        self.level -= 1;
        self.at += 1;
    }

    /// Finds the end of a value that is refused anyway, without recursion: only brackets and strings matter.
    fn skip_deep(&mut self) -> Scan<()> {
        let mut open = Vec::new();
        loop {
            match self.bytes.get(self.at) {
                None => return Err(self.hard("malformed JSON: unexpected end")),
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(b'{') => open.push(b'}'),
                Some(b'[') => open.push(b']'),
                Some(&close @ (b'}' | b']')) if open.pop() != Some(close) => {
                    return Err(self.hard("malformed JSON: brackets do not match"));
                }
                Some(_) => {}
            }
            self.at += 1;
            if open.is_empty() {
                return Ok(());
            }
        }
    }

    fn string(&mut self) -> Scan<()> {
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                None => return Err(self.hard("malformed JSON: unexpected end")),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(0..0x20) => return Err(self.hard("malformed JSON: a control character in a string")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Scan<()> {
        let from = self.at;
        match self.bytes.get(from + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let unit = self.unit(from)?;
                self.at += 6;
                match unit {
                    0 => self.note(from, "U+0000 cannot be stored"),
                    0xDC00..0xE000 => self.note(from, "lone surrogate"),
                    0xD800..0xDC00 => {
                        let paired = self.bytes[self.at..].starts_with(b"\\u")
                            && (0xDC00..0xE000).contains(&self.unit(self.at)?);
                        if paired {
                            self.at += 6;
                        } else {
                            self.note(from, "lone surrogate");
                        }
                    }
                    _ => {}
                }
            }
            _ => return Err(self.hard("malformed JSON: an unknown escape")),
        }
        Ok(())
    }

    /// The four hexadecimal digits of the escape that begins at `from`.
    fn unit(&self, from: usize) -> Scan<u32> {
        let digits = self.bytes.get(from + 2..from + 6).unwrap_or_default();
        let mut unit = 0;
        for &digit in digits {
            let Some(digit) = char::from(digit).to_digit(16) else {
                return Err(self.hard("malformed JSON: an unknown escape"));
            };
            unit = unit * 16 + digit;
        }
        if digits.len() == 4 { Ok(unit) } else { Err(self.hard("malformed JSON: an unknown escape")) }
    }

    fn word(&mut self, word: &'static str) -> Scan<()> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.hard("malformed JSON: a value is expected"));
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Scan<()> {
        let from = self.at;
        self.at += usize::from(self.bytes[from] == b'-');
        match self.bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.hard("malformed JSON: a digit is expected")),
        }
        let mut whole = true;
        if self.bytes.get(self.at) == Some(&b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        let mantissa_end = self.at;
        let mut exponent = 0;
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            whole = false;
            self.at += 1;
            let sign = self.at;
            self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
            self.digits()?;
            // An exponent that does not fit an i32 is beyond the limit all the more.
            exponent = self.text[sign..self.at].parse().unwrap_or(i32::MAX);
        }
        let literal = &self.text[from..self.at];
        if literal.len() > NUMBER_CHARS_MAX {
            self.note(from, "the number is too long");
        } else if whole {
            // Twenty characters hold every 64 bit integer, so that most literals need no parse.
            if literal.len() > 18 && literal.parse::<i64>().is_err() {
                self.note(from, "the integer is beyond 64 bit");
            }
        } else if exponent.abs() > EXPONENT_MAX || !fits(literal, &self.text[from..mantissa_end]) {
            self.note(from, "the number is beyond the range of a double");
        }
        Ok(())
    }

    fn digits(&mut self) -> Scan<()> {
        let from = self.at;
        while matches!(self.bytes.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == from { Err(self.hard("malformed JSON: a digit is expected")) } else { Ok(()) }
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn note(&mut self, at: usize, message: &'static str) {
        self.soft.get_or_insert(Fault { at, message });
    }

    fn hard(&self, message: &'static str) -> Fault {
        Fault { at: self.at, message }
    }
}

/// Neither infinite as a double, nor zero although a digit says otherwise.
fn fits(literal: &str, mantissa: &str) -> bool {
    let value: f64 = literal.parse().unwrap_or(f64::INFINITY);
    value.is_finite() && (value != 0.0 || !mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9')))
}

/// A client's key can be long; an error message need not be.
const SEGMENT_CHARS_MAX: usize = 64;

/// The dotted path of the value or key at an offset of a text that is well-formed up to there.
///
/// Only refused documents need it, so it walks the text again instead of burdening the scan.
pub fn path_at(text: &str, at: usize) -> String {
    enum Open {
        Object(String),
        Array(usize),
    }
    let bytes = text.as_bytes();
    let mut open: Vec<Open> = Vec::new();
    let mut key_next = false;
    let mut i = 0;
    // The value at the offset is not a place within itself; a key there is.
    while i < bytes.len() && (i < at || (i == at && bytes[i] == b'"')) {
        match bytes[i] {
            b'{' => {
                open.push(Open::Object(String::new()));
                key_next = true;
            }
            b'[' => open.push(Open::Array(0)),
            b'}' | b']' => {
                open.pop();
                key_next = false;
            }
            b',' => match open.last_mut() {
                Some(Open::Array(index)) => *index += 1,
                _ => key_next = true,
            },
            b'"' => {
                let from = i;
                i += 1;
                while i < bytes.len() && bytes[i] != b'"' {
                    i += 1 + usize::from(bytes[i] == b'\\');
                }
                if let (true, Some(Open::Object(key))) = (key_next, open.last_mut()) {
                    *key = text
                        .get(from..=i)
                        .map(|raw| decode(raw).chars().take(SEGMENT_CHARS_MAX).collect())
                        .unwrap_or_default();
                    key_next = false;
                }
            }
            _ => {}
        }
        i += 1;
    }
    let segments = open.into_iter().map(|level| match level {
        Open::Object(key) => key,
        Open::Array(index) => index.to_string(),
    });
    segments.filter(|segment| !segment.is_empty()).collect::<Vec<_>>().join(".")
}
