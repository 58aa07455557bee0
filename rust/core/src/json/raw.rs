//! Reading JSON that was judged before (by [`super::scan`] or by Postgres): spans instead of trees.
//!
//! Nothing here panics on other input; it only finds nothing.

use std::borrow::Cow;
use std::cmp::Ordering;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// The text of one JSON value, without white space around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a>(&'a str);

impl<'a> Raw<'a> {
    pub const NULL: Raw<'static> = Raw("null");

    pub fn trusted(text: &'a str) -> Self {
        Self(text.trim_ascii())
    }

    pub fn text(self) -> &'a str {
        self.0
    }

    pub fn kind(self) -> Kind {
        match self.0.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            _ => Kind::Null,
        }
    }

    pub fn is_null(self) -> bool {
        self.kind() == Kind::Null
    }

    pub fn string(self) -> Option<Cow<'a, str>> {
        (self.kind() == Kind::String).then(|| decode(self.0))
    }

    pub fn number(self) -> Option<Number> {
        if self.kind() == Kind::Number { Number::parse(self.0) } else { None }
    }

    pub fn boolean(self) -> Option<bool> {
        (self.kind() == Kind::Bool).then_some(self.0 == "true")
    }

    /// The members of an object in their order; of anything else none.
    pub fn members(self) -> Members<'a> {
        Members { text: self.0, at: if self.kind() == Kind::Object { 1 } else { self.0.len() } }
    }

    pub fn member(self, name: &str) -> Option<Raw<'a>> {
        self.members().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// Compares as numbers do, never by rounding: 2^53 + 1 is not 2^53.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().map(Self::Int).or_else(|_| text.parse().map(Self::Float)).ok()
    }

    pub fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(&b),
            // Zero has one meaning here, although IEEE's total order tells -0 from 0.
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
            (Self::Int(a), Self::Float(b)) => compare_mixed(a, b),
            (Self::Float(a), Self::Int(b)) => compare_mixed(b, a).reverse(),
        }
    }
}

fn compare_mixed(int: i64, float: f64) -> Ordering {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    if float >= TWO_63 {
        return Ordering::Less;
    }
    if float < -TWO_63 {
        return Ordering::Greater;
    }
    let whole = float.trunc();
    int.cmp(&(whole as i64)).then_with(|| 0.0_f64.partial_cmp(&(float - whole)).unwrap_or(Ordering::Equal))
}

pub struct Members<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = (Cow<'a, str>, Raw<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        let from = skip_to(bytes, self.at, |byte| byte == b'"')?;
        let key_end = skip(bytes, from);
        let colon = skip_to(bytes, key_end, |byte| byte == b':')?;
        let value = skip_to(bytes, colon + 1, |byte| !byte.is_ascii_whitespace())?;
        self.at = skip(bytes, value);
        Some((decode(self.text.get(from..key_end)?), Raw(self.text.get(value..self.at)?)))
    }
}

/// The items of an array in their order; of anything else none.
pub fn items(array: Raw<'_>) -> impl Iterator<Item = Raw<'_>> {
    let text = array.0;
    let bytes = text.as_bytes();
    let mut at = if array.kind() == Kind::Array { 1 } else { text.len() };
    std::iter::from_fn(move || {
        let from = skip_to(bytes, at, |byte| !byte.is_ascii_whitespace() && byte != b',')?;
        if bytes[from] == b']' {
            return None;
        }
        at = skip(bytes, from);
        text.get(from..at).map(Raw)
    })
}

fn skip_to(bytes: &[u8], from: usize, wanted: impl Fn(u8) -> bool) -> Option<usize> {
    bytes.get(from..)?.iter().position(|&byte| wanted(byte)).map(|i| from + i)
}

/// The end of the value that begins at `from`.
fn skip(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = from;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while let Some(&byte) = bytes.get(at) {
                    match byte {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
                at += 1;
                if depth == 0 {
                    break;
                }
            }
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                if depth == 0 {
                    break;
                }
                depth -= 1;
                at += 1;
                if depth == 0 {
                    break;
                }
            }
            b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => break,
            _ => at += 1,
        }
    }
    // A cut string may have carried us past the end, and every step must go forward.
    at.clamp((from + 1).min(bytes.len()), bytes.len())
}

/// The content of a string literal with its quotes. What cannot be decoded (a refused lone surrogate) becomes U+FFFD.
pub fn decode(literal: &str) -> Cow<'_, str> {
    let inner = literal.strip_prefix('"').unwrap_or(literal);
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    if !inner.as_bytes().contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(i) = rest.find('\\') {
        out.push_str(&rest[..i]);
        let escape = rest[i + 1..].chars().next();
        rest = &rest[i + 1 + escape.map_or(0, char::len_utf8)..];
        match escape {
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                let high = unit(rest);
                rest = rest.get(4..).unwrap_or_default();
                let low = if (0xD800..0xDC00).contains(&high) { rest.strip_prefix("\\u").map(unit) } else { None };
                match low {
                    Some(low @ 0xDC00..0xE000) => {
                        rest = rest.get(6..).unwrap_or_default();
                        let point = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                        out.push(char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    _ => out.push(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER)),
                }
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn unit(text: &str) -> u32 {
    text.get(..4).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0xFFFF_FFFF)
}

/// Appends a string literal.
pub fn quote(out: &mut String, text: &str) {
    use std::fmt::Write;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0'..' ' => write!(out, "\\u{:04x}", c as u32).unwrap_or_default(),
            _ => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn compares_numbers_exactly() {
        let number = |text| Number::parse(text).unwrap();
        assert_eq!(number("1").compare(number("1.0")), Ordering::Equal);
        assert_eq!(number("9007199254740993").compare(number("9007199254740992.0")), Ordering::Greater);
        assert_eq!(number("9223372036854775807").compare(number("9223372036854775808")), Ordering::Less);
        assert_eq!(number("-2").compare(number("-1.5")), Ordering::Less);
        assert_eq!(number("-0.0").compare(number("0")), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn reading_survives_any_text(text in ".{0,60}|[\\[\\]{}\",:\\\\u0-9a ]{0,40}") {
            let raw = Raw::trusted(&text);
            raw.members().take(100).for_each(drop);
            items(raw).take(100).for_each(drop);
            decode(&text);
        }

        #[test]
        fn agrees_with_serde(text in ".{0,30}") {
            let literal = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(decode(&literal), text.as_str());
            let mut quoted = String::new();
            quote(&mut quoted, &text);
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }
    }
}
