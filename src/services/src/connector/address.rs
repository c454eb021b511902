//! Which addresses may be connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::dns::DnsError;

/// IPv4 networks that are not the public internet.
const DENIED_V4: [(Ipv4Addr, u8); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// IPv6 networks that are not the public internet.
const DENIED_V6: [(Ipv6Addr, u8); 9] = [
    (Ipv6Addr::UNSPECIFIED, 128),
    (Ipv6Addr::LOCALHOST, 128),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 9),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Refuses addresses inside the operator's own network unless they are explicitly allowed.
#[derive(Debug)]
pub struct AddressFilter {
    allow: Vec<IpNet>,
}

impl AddressFilter {
    /// A filter that lets the public internet and the networks of `allow` pass.
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allow }
    }

    /// Whether this address may be connected to.
    pub fn allows(&self, address: IpAddr) -> bool {
        if self.allow.iter().any(|net| net.contains(&address)) {
            return true;
        }
        match address {
            IpAddr::V4(v4) => !is_denied_v4(v4),
            IpAddr::V6(v6) => match embedded_v4(v6) {
                // An IPv4 address in disguise is judged as what it reaches.
                Some(v4) => self.allow.iter().any(|net| net.contains(&IpAddr::V4(v4))) || !is_denied_v4(v4),
                None => !is_denied_v6(v6),
            },
        }
    }

    /// Drops the refused addresses; an error if none is left.
    pub(crate) fn keep_allowed(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, DnsError> {
        let first_denied = addresses.iter().map(SocketAddr::ip).find(|address| !self.allows(*address));
        let allowed: Vec<_> = addresses.into_iter().filter(|address| self.allows(address.ip())).collect();
        match first_denied {
            Some(denied) if allowed.is_empty() => Err(DnsError::Denied(denied)),
            _ => Ok(allowed),
        }
    }
}

fn is_denied_v4(address: Ipv4Addr) -> bool {
    DENIED_V4.iter().any(|(net, length)| Ipv4Net::new_assert(*net, *length).contains(&address))
}

fn is_denied_v6(address: Ipv6Addr) -> bool {
    DENIED_V6.iter().any(|(net, length)| Ipv6Net::new_assert(*net, *length).contains(&address))
}

/// The IPv4 address that an IPv6 address leads to: mapped, compatible, NAT64, 6to4.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0, 0, 0, 0, 0xffff, 0) => Some(v4(g, h)),
        (0x64, 0xff9b, 0, 0, 0, 0) => Some(v4(g, h)),
        (0x2002, _, _, _, _, _) => Some(v4(b, c)),
        // The compatible form, which `::` and `::1` are not.
        (0, 0, 0, 0, 0, 0) if (g, h) > (0, 1) => Some(v4(g, h)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_the_own_network_are_refused_by_default() {
        let filter = AddressFilter::new(Vec::new());
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.2.1",
            "198.51.100.7",
            "203.0.113.9",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::ffff:0:127.0.0.1",
        ] {
            assert!(!filter.allows(address.parse().expect("a valid address")), "{address}");
        }
    }

    #[test]
    fn public_addresses_pass() {
        let filter = AddressFilter::new(Vec::new());
        for address in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "2a00:1450::1"] {
            assert!(filter.allows(address.parse().expect("a valid address")), "{address}");
        }
    }

    #[test]
    fn allow_list_opens_exactly_its_networks() {
        let filter = AddressFilter::new(vec!["10.20.0.0/16".parse().expect("a valid network")]);
        assert!(filter.allows("10.20.3.4".parse().expect("a valid address")));
        assert!(filter.allows("::ffff:10.20.3.4".parse().expect("a valid address")));
        assert!(!filter.allows("10.21.0.1".parse().expect("a valid address")));
    }

    #[test]
    fn refused_addresses_are_dropped_and_the_rest_is_kept() {
        let filter = AddressFilter::new(Vec::new());
        let public = "1.1.1.1:443".parse().expect("a valid address");
        let private = "10.0.0.1:443".parse().expect("a valid address");
        assert_eq!(filter.keep_allowed(vec![private, public]).expect("one is left"), vec![public]);
        assert!(matches!(filter.keep_allowed(vec![private]), Err(DnsError::Denied(_))));
    }
}
