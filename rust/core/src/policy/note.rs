//! A send, compiled: what is the same for all its recipients is done once.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::caps::Limits;
use super::locale::Localized;
use super::quiet::Window;
use super::zones;
use crate::template::Template;
use crate::{Id, Refused};

pub struct Note {
    pub send: Id,
    pub title: Template,
    pub body: Template,
    pub localized_title: Localized<Template>,
    pub localized_body: Localized<Template>,
    /// The trigger's properties as JSON.
    pub event: String,
    pub test: Option<Test>,
    pub raw: bool,
    pub planned_ms: i64,
    pub expires_ms: i64,
    pub quiet: Option<Window>,
    pub defer: bool,
    pub caps: Limits,
    pub default_zone: Option<jiff::tz::TimeZone>,
    pub bypass: bool,
}

pub struct Test {
    pub id: String,
    pub variants: Vec<Variant>,
}

pub struct Variant {
    pub key: String,
    /// Empty ones are filled from the send (B119).
    pub title: Option<Template>,
    pub body: Option<Template>,
    pub weight: u8,
    pub holdout: bool,
}

impl Test {
    /// Cumulative weights in array order (C44).
    pub fn assign(&self, bucket: u8) -> Option<&Variant> {
        let mut below = 0;
        self.variants.iter().find(|variant| {
            below += variant.weight;
            bucket < below
        })
    }
}

impl Note {
    pub fn new(spec: &[u8]) -> Result<Self, Refused> {
        crate::json::check(spec)?;
        let spec: Spec = serde_json::from_slice(spec).map_err(|error| Refused::new("", error.to_string()))?;
        let send =
            uuid::Uuid::try_parse(&spec.send_id).map_err(|_| Refused::new("sendId", "must be a UUID"))?.into_bytes();
        let policy = spec.policy;
        for (path, hour) in [("policy.quietStart", policy.quiet_start), ("policy.quietEnd", policy.quiet_end)] {
            if hour.is_some_and(|hour| hour > 23) {
                return Err(Refused::new(path, "must be 0 to 23"));
            }
        }
        if !spec.event.get().starts_with(['{', 'n']) {
            return Err(Refused::new("event", "must be an object"));
        }
        Ok(Self {
            send,
            title: Template::new(&spec.title),
            body: Template::new(&spec.body),
            localized_title: localized(spec.localized_title),
            localized_body: localized(spec.localized_body),
            event: spec.event.get().to_owned(),
            test: spec.test.map(test).transpose()?,
            raw: spec.raw,
            planned_ms: spec.planned_at,
            expires_ms: spec.expires_at,
            quiet: Window::new(policy.quiet_start, policy.quiet_end),
            defer: policy.defer,
            caps: Limits { day: policy.cap_day, hour: policy.cap_hour },
            default_zone: policy.default_zone.as_deref().and_then(zones::find),
            bypass: policy.bypass,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    send_id: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    body: String,
    localized_title: Option<BTreeMap<String, String>>,
    localized_body: Option<BTreeMap<String, String>>,
    #[serde(default = "nothing")]
    event: Box<serde_json::value::RawValue>,
    test: Option<TestSpec>,
    #[serde(default)]
    raw: bool,
    planned_at: i64,
    expires_at: i64,
    #[serde(default)]
    policy: PolicySpec,
}

fn nothing() -> Box<serde_json::value::RawValue> {
    serde_json::value::RawValue::NULL.to_owned()
}

#[derive(Deserialize)]
struct TestSpec {
    id: String,
    variants: Vec<VariantSpec>,
}

#[derive(Deserialize)]
struct VariantSpec {
    key: String,
    title: Option<String>,
    body: Option<String>,
    weight: u8,
    #[serde(default)]
    holdout: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PolicySpec {
    quiet_start: Option<u8>,
    quiet_end: Option<u8>,
    defer: bool,
    cap_day: Option<u32>,
    cap_hour: Option<u32>,
    default_zone: Option<String>,
    bypass: bool,
}

/// An empty text is none: the chain goes on.
fn localized(texts: Option<BTreeMap<String, String>>) -> Localized<Template> {
    let templates = texts.unwrap_or_default().into_iter().map(|(tag, text)| (tag, Template::new(&text)));
    Localized::new(templates.filter(|(_, template)| !template.is_empty()))
}

fn test(spec: TestSpec) -> Result<Test, Refused> {
    if spec.variants.iter().map(|variant| u32::from(variant.weight)).sum::<u32>() != 100 {
        return Err(Refused::new("test.variants", "weights must sum to 100"));
    }
    let template = |text: Option<String>| text.map(|text| Template::new(&text)).filter(|template| !template.is_empty());
    let variants = spec.variants.into_iter().map(|variant| Variant {
        key: variant.key,
        title: template(variant.title),
        body: template(variant.body),
        weight: variant.weight,
        holdout: variant.holdout,
    });
    Ok(Test { id: spec.id, variants: variants.collect() })
}
