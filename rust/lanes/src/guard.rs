//! Where may be dialled: the same rule, over the same list, as `kernel/outbound.py` has for Python.
//!
//! A name is resolved once, every address of it is checked, and one of the checked ones is connected to. One bad address
//! among good ones is a trap, or at least nothing to build on.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use tokio::net::lookup_host;

const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Networks that nothing is sent to.
    pub blocked: Vec<IpNet>,
    /// Ports of services on the open internet.
    pub ports: HashSet<u16>,
    /// (host, port) that may be dialled whatever their address is.
    pub exempt: HashSet<(String, u16)>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Blocked(&'static str),
    Unknown(String),
}

impl Guard {
    /// The addresses of a host, all of them checked.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
        let exempt = self.exempt.contains(&(host.to_owned(), port));
        if !exempt && !self.ports.contains(&port) {
            return Err(Refusal::Blocked("a port that is not for HTTPS"));
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = lookup_host((bare, port)).await;
        let addresses: Vec<SocketAddr> =
            found.map_err(|error| Refusal::Unknown(format!("{host} cannot be resolved: {error}")))?.collect();
        if addresses.is_empty() {
            return Err(Refusal::Unknown(format!("{host} has no address")));
        }
        if !exempt && addresses.iter().any(|address| self.is_blocked(address.ip())) {
            return Err(Refusal::Blocked("not a public address"));
        }
        Ok(addresses)
    }

    /// What stands for an IPv4 address is judged as one.
    fn is_blocked(&self, address: IpAddr) -> bool {
        let address = match address {
            IpAddr::V6(v6) => match (v6.to_ipv4_mapped(), v6.segments()) {
                (Some(v4), _) => IpAddr::V4(v4),
                (None, [a, b, c, d, e, f, g, h]) if [a, b, c, d, e, f] == NAT64 => {
                    IpAddr::V4(Ipv4Addr::from((u32::from(g) << 16) | u32::from(h)))
                }
                _ => address,
            },
            IpAddr::V4(_) => address,
        };
        self.blocked.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard {
            blocked: ["127.0.0.0/8", "10.0.0.0/8", "::/96"].map(|text| text.parse().unwrap()).into(),
            ports: HashSet::from([443]),
            exempt: HashSet::from([("localhost".to_owned(), 9)]),
        }
    }

    #[test]
    fn an_address_in_disguise_is_what_it_stands_for() {
        for (text, blocked) in [
            ("127.0.0.1", true),
            ("::ffff:10.1.2.3", true),
            ("64:ff9b::7f00:1", true),
            ("::1", true),
            ("64:ff9b::808:808", false),
            ("8.8.8.8", false),
            ("2606:4700::1111", false),
        ] {
            assert_eq!(guard().is_blocked(text.parse().unwrap()), blocked, "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_exempt_is_dialled_all_the_same() {
        let guard = guard();
        assert!(guard.resolve("localhost", 9).await.is_ok());
        assert_eq!(guard.resolve("127.0.0.1", 443).await, Err(Refusal::Blocked("not a public address")));
        assert_eq!(guard.resolve("127.0.0.1", 9).await, Err(Refusal::Blocked("a port that is not for HTTPS")));
    }
}
