//! `POST /identify` (B048, C29): an event that also changes a profile, in one record, so that both or neither happen.

use super::event::{Accepted, IdentifyFields};
use super::fields::{self, EMAIL_CHARS_MAX, LOCALE_CHARS_MAX, PERSON_CHARS_MAX, PROPERTIES};
use super::{Checked, EVENT_BYTES_MAX, FieldErrors, Origin};
use crate::json::{Fault, Raw, Scanner, path_at};
use crate::policy::zones;

#[derive(Default)]
struct Fields<'a> {
    user: Option<Raw<'a>>,
    anonymous: Option<Raw<'a>>,
    email: Option<Raw<'a>>,
    traits: Option<(Raw<'a>, usize)>,
    locale: Option<Raw<'a>>,
    timezone: Option<Raw<'a>>,
    device: Option<Raw<'a>>,
    session: Option<Raw<'a>>,
    event_id: Option<Raw<'a>>,
    timestamp: Option<Raw<'a>>,
    org: Option<Raw<'a>>,
    project: Option<Raw<'a>>,
}

impl<'a> Fields<'a> {
    fn take(&mut self, scanner: &mut Scanner<'a>, key: &str) -> Result<(), Fault> {
        let field = match key {
            "userId" => &mut self.user,
            "anonymousId" => &mut self.anonymous,
            "email" => &mut self.email,
            "locale" => &mut self.locale,
            "timezone" => &mut self.timezone,
            "deviceId" => &mut self.device,
            "sessionId" => &mut self.session,
            "eventId" => &mut self.event_id,
            "timestamp" => &mut self.timestamp,
            "orgId" => &mut self.org,
            "projectId" => &mut self.project,
            "traits" => {
                self.traits = Some(scanner.limited(PROPERTIES)?);
                return Ok(());
            }
            _ => return scanner.value().map(drop),
        };
        *field = Some(scanner.value()?);
        Ok(())
    }

    fn judge(self, item: &str, soft: Option<Fault>, origin: Origin<'_>) -> Result<Accepted<'a>, FieldErrors> {
        let mut errors = FieldErrors::default();
        if let Some(fault) = soft {
            errors.add(path_at(item, fault.at), fault.message);
        }
        let user = fields::required(&mut errors, "userId", self.user, PERSON_CHARS_MAX);
        let email = fields::text(&mut errors, "email", self.email, EMAIL_CHARS_MAX);
        if let Some(email) = &email
            && !email.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
        {
            errors.add("email", "must be an email address");
        }
        let timezone = fields::text(&mut errors, "timezone", self.timezone, zones::NAME_CHARS_MAX);
        if let Some(name) = &timezone
            && zones::find(name).is_none()
        {
            errors.add("timezone", "must be an IANA time zone");
        }
        let accepted = Accepted {
            event_type: "user.identified".into(),
            module: "profiles".into(),
            user,
            anonymous: fields::text(&mut errors, "anonymousId", self.anonymous, PERSON_CHARS_MAX),
            device: fields::text(&mut errors, "deviceId", self.device, PERSON_CHARS_MAX),
            session: fields::text(&mut errors, "sessionId", self.session, PERSON_CHARS_MAX),
            event_id: fields::event_id(&mut errors, self.event_id)
                .unwrap_or_else(|| fields::new_event_id(origin.received_ms).into()),
            occurred_ms: fields::timestamp(&mut errors, self.timestamp, origin.received_ms),
            properties: fields::object(&mut errors, "traits", self.traits),
            identify: Some(IdentifyFields {
                email,
                locale: fields::text(&mut errors, "locale", self.locale, LOCALE_CHARS_MAX),
                timezone,
            }),
        };
        fields::same_tenant(&mut errors, self.org, self.project, origin);
        if errors.is_empty() { Ok(accepted) } else { Err(errors) }
    }
}

pub fn check_identify(body: &[u8], origin: Origin<'_>) -> Checked {
    let Ok(text) = std::str::from_utf8(body) else { return Checked::malformed("", "invalid UTF-8") };
    let mut scanner = Scanner::new(text);
    let mut fields = Fields::default();
    let is_object = scanner.peek() == Some(b'{');
    let from = scanner.position();
    let walked =
        if is_object { scanner.object(|scanner, key| fields.take(scanner, key)) } else { scanner.value().map(drop) };
    let item = &text[from..scanner.position()];
    match walked.and_then(|()| scanner.end()) {
        Err(fault) => return Checked::malformed(path_at(text, fault.at), fault.message),
        Ok(()) if !is_object => return Checked::malformed("", "must be an object"),
        Ok(()) if item.len() > EVENT_BYTES_MAX => return Checked::too_large(true, "an event is at most 256 KB"),
        Ok(()) => {}
    }
    let soft = scanner.take_soft().map(|fault| Fault { at: fault.at - from, ..fault });
    let mut checked = Checked { single: true, ..Checked::default() };
    match fields.judge(item, soft, origin) {
        Ok(accepted) => {
            accepted.write(&mut checked.records, origin);
            checked.accepted = 1;
            accepted.describe(&mut checked);
        }
        Err(errors) => checked.reject(0, &errors, None),
    }
    checked.finish()
}
