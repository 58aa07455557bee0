//! The fields of an event.

use std::borrow::Cow;

use super::fields::{self, MODULE_CHARS_MAX, PERSON_CHARS_MAX, PROPERTIES, TYPE_CHARS_MAX};
use super::{Checked, FieldErrors, Origin};
use crate::json::{Fault, Raw, Scanner, path_at};
use crate::record::{self, Event, Identify, Record};

/// As they were found; unknown ones are passed over, because an SDK may be newer than we are.
#[derive(Default)]
pub struct EventFields<'a> {
    event_type: Option<Raw<'a>>,
    module: Option<Raw<'a>>,
    properties: Option<(Raw<'a>, usize)>,
    event_id: Option<Raw<'a>>,
    user: Option<Raw<'a>>,
    anonymous: Option<Raw<'a>>,
    device: Option<Raw<'a>>,
    session: Option<Raw<'a>>,
    timestamp: Option<Raw<'a>>,
    org: Option<Raw<'a>>,
    project: Option<Raw<'a>>,
}

impl<'a> EventFields<'a> {
    /// Reads the value of one key.
    pub fn take(&mut self, scanner: &mut Scanner<'a>, key: &str) -> Result<(), Fault> {
        let field = match key {
            "eventType" => &mut self.event_type,
            "module" => &mut self.module,
            "eventId" => &mut self.event_id,
            "userId" => &mut self.user,
            "anonymousId" => &mut self.anonymous,
            "deviceId" => &mut self.device,
            "sessionId" => &mut self.session,
            "timestamp" => &mut self.timestamp,
            "orgId" => &mut self.org,
            "projectId" => &mut self.project,
            "properties" => {
                self.properties = Some(scanner.limited(PROPERTIES)?);
                return Ok(());
            }
            // `environment` is among them: the key's counts (B008).
            _ => return scanner.value().map(drop),
        };
        *field = Some(scanner.value()?);
        Ok(())
    }

    /// `soft` is the first fault of the item, its offset counted from the item's begin.
    pub fn judge(self, item: &str, soft: Option<Fault>, origin: Origin<'_>) -> Result<Accepted<'a>, FieldErrors> {
        let mut errors = FieldErrors::default();
        if let Some(fault) = soft {
            errors.add(path_at(item, fault.at), fault.message);
        }
        let event_type = fields::required(&mut errors, "eventType", self.event_type, TYPE_CHARS_MAX);
        let module = fields::required(&mut errors, "module", self.module, MODULE_CHARS_MAX);
        let accepted = Accepted {
            event_type: event_type.unwrap_or_default(),
            module: module.unwrap_or_default(),
            user: fields::text(&mut errors, "userId", self.user, PERSON_CHARS_MAX),
            anonymous: fields::text(&mut errors, "anonymousId", self.anonymous, PERSON_CHARS_MAX),
            device: fields::text(&mut errors, "deviceId", self.device, PERSON_CHARS_MAX),
            session: fields::text(&mut errors, "sessionId", self.session, PERSON_CHARS_MAX),
            event_id: fields::event_id(&mut errors, self.event_id)
                .unwrap_or_else(|| fields::new_event_id(origin.received_ms).into()),
            occurred_ms: fields::timestamp(&mut errors, self.timestamp, origin.received_ms),
            properties: fields::object(&mut errors, "properties", self.properties),
            identify: None,
        };
        fields::same_tenant(&mut errors, self.org, self.project, origin);
        if errors.is_empty() { Ok(accepted) } else { Err(errors) }
    }
}

/// An event that will be stored.
pub struct Accepted<'a> {
    pub event_type: Cow<'a, str>,
    pub module: Cow<'a, str>,
    pub user: Option<Cow<'a, str>>,
    pub anonymous: Option<Cow<'a, str>>,
    pub device: Option<Cow<'a, str>>,
    pub session: Option<Cow<'a, str>>,
    pub event_id: Cow<'a, str>,
    pub occurred_ms: i64,
    pub properties: &'a str,
    pub identify: Option<IdentifyFields<'a>>,
}

#[derive(Default)]
pub struct IdentifyFields<'a> {
    pub email: Option<Cow<'a, str>>,
    pub locale: Option<Cow<'a, str>>,
    pub timezone: Option<Cow<'a, str>>,
}

impl Accepted<'_> {
    pub fn write(&self, out: &mut Vec<u8>, origin: Origin<'_>) {
        let event = Event {
            received_ms: origin.received_ms,
            occurred_ms: self.occurred_ms,
            event_type: self.event_type.as_bytes(),
            module: self.module.as_bytes(),
            user: bytes(self.user.as_ref()),
            anonymous: bytes(self.anonymous.as_ref()),
            device: bytes(self.device.as_ref()),
            session: bytes(self.session.as_ref()),
            environment: origin.environment.as_bytes(),
            event_id: self.event_id.as_bytes(),
            properties: self.properties.as_bytes(),
            identify: self.identify.as_ref().map(|fields| Identify {
                email: bytes(fields.email.as_ref()),
                locale: bytes(fields.locale.as_ref()),
                timezone: bytes(fields.timezone.as_ref()),
            }),
        };
        record::write(out, origin.tenant, &Record::Event(event));
    }

    pub fn describe(self, checked: &mut Checked) {
        checked.event_id = Some(self.event_id.into_owned());
        checked.event_type = Some(self.event_type.into_owned());
        checked.user_id = self.user.map(Cow::into_owned);
        checked.anonymous_id = self.anonymous.map(Cow::into_owned);
    }
}

fn bytes<'t>(text: Option<&'t Cow<'_, str>>) -> Option<&'t [u8]> {
    text.map(|text| text.as_bytes())
}
