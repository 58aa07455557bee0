//! `{{path.to.value}}` (B122-B126): compiled once to literals and paths, rendered often.
//!
//! Logic-less: a path is followed through JSON objects and nothing else. What is not found is empty (B125); strings
//! come bare, numbers and booleans as JSON writes them, null, arrays and objects are empty; nothing is escaped (B126).
//! Braces around anything but a path are text. `user.*` is a closed list (B123), whatever the scopes hold.

use crate::json::{Kind, Raw};

/// Providers take no more, and a template must not multiply what a client sends.
const OUTPUT_BYTES_MAX: usize = 4096;
const USER_FIELDS: [&str; 6] = ["userId", "email", "createdAt", "lastSeenAt", "locale", "timezone"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Path(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
}

/// Where the first name of a path leads.
pub trait Scopes {
    /// Appends the value that a path leads to, when it leads to one.
    fn write(&self, path: &[String], out: &mut String);
}

impl Template {
    pub fn new(text: &str) -> Self {
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(open) = rest.find("{{") {
            literal.push_str(&rest[..open]);
            rest = &rest[open..];
            if let Some((path, behind)) = read_path(rest) {
                if !literal.is_empty() {
                    segments.push(Segment::Literal(std::mem::take(&mut literal)));
                }
                segments.push(Segment::Path(path.split('.').map(str::to_owned).collect()));
                rest = behind;
            } else {
                // The second brace may open a path of its own: "{{{a}}".
                literal.push('{');
                rest = &rest[1..];
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal));
        }
        Self { segments }
    }

    /// The paths as they were written, in their order.
    pub fn paths(&self) -> Vec<String> {
        self.segments
            .iter()
            .filter_map(|segment| if let Segment::Path(path) = segment { Some(path.join(".")) } else { None })
            .collect()
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    pub fn render(&self, scopes: &impl Scopes) -> String {
        let mut out = String::new();
        self.render_to(scopes, &mut out);
        out
    }

    /// Appends to what stands in `out` already.
    pub fn render_to(&self, scopes: &impl Scopes, out: &mut String) {
        let from = out.len();
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.push_str(text),
                Segment::Path(path)
                    if path[0] == "user" && !(path.len() == 2 && USER_FIELDS.contains(&path[1].as_str())) => {}
                Segment::Path(path) => scopes.write(path, out),
            }
            if out.len() - from > OUTPUT_BYTES_MAX {
                break;
            }
        }
        let to = out.len().min(from + OUTPUT_BYTES_MAX);
        out.truncate((from..=to).rev().find(|&at| out.is_char_boundary(at)).unwrap_or(from));
    }
}

/// The path at the begin of "{{ path }}...", and what follows it.
fn read_path(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix("{{")?.trim_ascii_start();
    let end = inner.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$'))).unwrap_or(inner.len());
    let behind = inner[end..].trim_ascii_start().strip_prefix("}}")?;
    (end > 0).then_some((&inner[..end], behind))
}

/// Follows a path through objects.
pub fn follow<'a>(root: Raw<'a>, path: &[String]) -> Option<Raw<'a>> {
    path.iter().try_fold(root, |raw, name| raw.member(name))
}

pub fn write_value(raw: Raw<'_>, out: &mut String) {
    match raw.kind() {
        Kind::String => out.push_str(&raw.string().unwrap_or_default()),
        Kind::Number | Kind::Bool => out.push_str(raw.text()),
        Kind::Null | Kind::Array | Kind::Object => {}
    }
}

/// One JSON object that holds all scopes by name.
impl Scopes for Raw<'_> {
    fn write(&self, path: &[String], out: &mut String) {
        if let Some(value) = follow(*self, path) {
            write_value(value, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> String {
        Template::new(text).render(&Raw::trusted(
            r#"{"event":{"a":{"b":"x\n"},"n":1.50,"t":true,"l":[1]},"user":{"email":"e","plan":"p"},"flat":"f"}"#,
        ))
    }

    #[test]
    fn follows_paths_and_nothing_else() {
        assert_eq!(
            render("{{event.a.b}}|{{ event.n }}|{{event.t}}|{{event.l}}|{{event.a}}|{{flat}}"),
            "x\n|1.50|true|||f"
        );
        assert_eq!(render("{{event.none}}{{trait.x}}{{event.a.b.c}}{{event..a}}"), "");
        assert_eq!(render("{{user.email}}{{user.plan}}{{user.email.x}}{{user}}"), "e");
        assert_eq!(render("{{}} {{a b}} {{#if}} {{ {{{flat}}} {{flat}"), "{{}} {{a b}} {{#if}} {{ {f} {{flat}");
    }

    #[test]
    fn the_output_is_cut_between_characters() {
        let long = render(&"é".repeat(3000));
        assert_eq!((long.len(), long.chars().count()), (4096, 2048));
        assert_eq!(render(&format!("x{}", "é".repeat(3000))).len(), 4095);
    }
}
