//! Where nothing may be sent: the guard of `kernel/outbound.py`, asked when a name has become addresses.
//!
//! The list of networks is handed over from there, so that there is one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

#[derive(Debug, Clone, Default)]
pub struct Guard {
    blocked: Vec<IpNet>,
    exempt: Vec<(String, u16)>,
    ports: Vec<u16>,
}

impl Guard {
    pub fn new(blocked: Vec<IpNet>, exempt: Vec<(String, u16)>, ports: Vec<u16>) -> Self {
        Self { blocked, exempt, ports }
    }

    /// Why none of these may be connected to. One bad address among good ones is a trap, or at least nothing to build on.
    pub fn refusal(&self, host: &str, port: u16, addresses: &[IpAddr]) -> Option<&'static str> {
        if self.exempt.iter().any(|(name, at)| *at == port && name.eq_ignore_ascii_case(host)) {
            return None;
        }
        if !self.ports.contains(&port) {
            return Some("a port that is not for HTTPS");
        }
        addresses.iter().any(|&address| !self.public(address)).then_some("not a public address")
    }

    /// Whether something may be sent to this address.
    pub fn public(&self, address: IpAddr) -> bool {
        let address = match address {
            IpAddr::V6(six) => standing_for(six).map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        let global = match address {
            IpAddr::V4(_) => true,
            // Of IPv6 only this block has been given out as global unicast.
            IpAddr::V6(six) => six.segments()[0] & 0xe000 == 0x2000,
        };
        global && !self.blocked.iter().any(|network| network.contains(&address))
    }
}

/// The IPv4 address inside of an IPv6 one: what stands for it is judged as it.
fn standing_for(address: Ipv6Addr) -> Option<Ipv4Addr> {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return Some(mapped);
    }
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() else { return None };
    Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}
