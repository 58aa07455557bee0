//! Requests to APNs, FCM and push services, and what their answers mean: without a socket and without a runtime.
//!
//! What a payload looks like is written once, in Python (`modules/push/{apns,fcm,webpush}.py`). A send is compiled
//! from prototypes that those builders wrote ([`wire`]), cut at the recipient's own words ([`shape`]) and filled for
//! each of them; browsers' payloads are encrypted ([`webpush`]). What the builders do is the oracle of what is filled,
//! what their readers say is the oracle of [`answer`].

pub mod answer;
mod apns;
mod fcm;
pub mod halts;
mod shape;
pub mod webpush;
pub mod wire;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Apns,
    Fcm,
    WebPush,
}

impl Transport {
    /// Of a device's platform.
    pub fn of(platform: &str) -> Option<Self> {
        match platform {
            "ios" => Some(Self::Apns),
            "android" => Some(Self::Fcm),
            "web" => Some(Self::WebPush),
            _ => None,
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Apns, Self::Fcm, Self::WebPush].into_iter().find(|transport| transport.name() == name)
    }

    /// What stands before the colon of its lanes' names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apns => "apns",
            Self::Fcm => "fcm",
            Self::WebPush => "webpush",
        }
    }
}
