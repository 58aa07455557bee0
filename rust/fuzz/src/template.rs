//! A template, and behind a zero byte its scopes.
//!
//! Rendering is total, its output is bounded, and it is a function of template and scopes alone. The scopes need not be
//! JSON: what Postgres holds was checked, but a reader that trusts must not fall over.

use sendora_core::json::Raw;
use sendora_core::template::Template;

use super::halves;

/// The bound of rust/core/src/template.rs.
const OUTPUT_BYTES_MAX: usize = 4_096;

pub fn run(data: &[u8]) {
    let (text, scopes) = halves(data);
    let (Ok(text), Ok(scopes)) = (std::str::from_utf8(text), std::str::from_utf8(scopes)) else { return };
    let template = Template::new(text);
    let scopes = Raw::trusted(scopes);
    let rendered = template.render(&scopes);
    assert!(rendered.len() <= OUTPUT_BYTES_MAX, "a template must not multiply what a client sends");
    assert_eq!(rendered, template.render(&scopes));
    assert_eq!(template.is_empty(), text.is_empty());
    assert!(template.paths().iter().all(|path| text.contains(path.as_str())), "paths are as they were written");
    if template.paths().is_empty() {
        assert!(text.starts_with(&rendered), "without a path a template is its text");
        assert!(rendered.len() == text.len() || rendered.len() + 4 > OUTPUT_BYTES_MAX, "cut at the bound only");
    }
}
