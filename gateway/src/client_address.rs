//! The address of the client behind proxies.
//!
//! Any client can send `X-Forwarded-For`, so only the entries that trusted proxies added are used: read from the end,
//! the first address that isn't a trusted proxy's is the client.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use actix_web::http::header::{HeaderMap, HeaderName};

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// One address or a CIDR block: `10.0.0.7`, `10.0.0.0/8`, `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// An IPv4 address is mapped to IPv6, so that one comparison covers both.
    bits: u128,
    prefix: u32,
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let differing = self.bits ^ to_ipv6(address).to_bits();
        differing.leading_zeros() >= self.prefix
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.trim().split_once('/').unzip();
        let address = address.unwrap_or(text.trim());
        let address: IpAddr =
            address.parse().map_err(|_| format!("{address:?} is not an IPv4 or IPv6 address"))?;
        let (bits, offset) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|prefix| *prefix <= bits)
                .ok_or_else(|| format!("the prefix must be between 0 and {bits}, not {prefix:?}"))?,
        };
        Ok(Self { bits: to_ipv6(address).to_bits(), prefix: offset + prefix })
    }
}

fn to_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The proxies whose `X-Forwarded-*` fields are believed.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies(pub(crate) Vec<Network>);

impl TrustedProxies {
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// The address of the client behind the connection's `peer`.
    pub(crate) fn client_address(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        let entries: Vec<&str> = headers
            .get_all(X_FORWARDED_FOR)
            .flat_map(|value| value.to_str().unwrap_or_default().split(','))
            .collect();
        let mut client = peer.ip().to_canonical();
        for entry in entries.iter().rev() {
            // An entry that is no address ends the chain: the entries before it can't be believed.
            let Some(previous) = parse_address(entry.trim()).filter(|_| self.contains(client)) else { break };
            client = previous;
        }
        client
    }
}

/// An address with or without a port, which some proxies add.
fn parse_address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address = bare.parse().or_else(|_| entry.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn client(trusted: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let trusted = TrustedProxies(trusted.iter().map(|network| network.parse().unwrap()).collect());
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
        }
        trusted.client_address(SocketAddr::new(peer.parse().unwrap(), 5000), &headers).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let ours = &["10.0.0.0/8", "fd00::/8"][..];
        for (trusted, peer, forwarded, expected) in [
            (&[][..], "10.0.0.7", &["192.0.2.1"][..], "10.0.0.7"),
            (ours, "192.0.2.9", &["192.0.2.1"], "192.0.2.9"),
            (ours, "10.0.0.7", &[], "10.0.0.7"),
            (ours, "10.0.0.7", &["192.0.2.1"], "192.0.2.1"),
            (ours, "::ffff:10.0.0.7", &["::ffff:192.0.2.1"], "192.0.2.1"),
            (ours, "fd00::7", &["2001:db8::1"], "2001:db8::1"),
            // The client's own entries come before those of the proxies.
            (ours, "10.0.0.7", &["127.0.0.1, 192.0.2.1"], "192.0.2.1"),
            (ours, "10.0.0.7", &["192.0.2.1, 10.0.0.6"], "192.0.2.1"),
            (ours, "10.0.0.7", &["192.0.2.1", "10.0.0.6, 10.0.0.5"], "192.0.2.1"),
            (ours, "10.0.0.7", &["10.0.0.5"], "10.0.0.5"),
            (ours, "10.0.0.7", &["192.0.2.1:4711"], "192.0.2.1"),
            (ours, "10.0.0.7", &["[2001:db8::1]:4711"], "2001:db8::1"),
            (ours, "10.0.0.7", &["192.0.2.1, unknown, 10.0.0.6"], "10.0.0.6"),
            (ours, "10.0.0.7", &["", ","], "10.0.0.7"),
        ] {
            assert_eq!(client(trusted, peer, forwarded), expected, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn networks_contain_addresses_with_their_prefix() {
        for (network, inside, outside) in [
            ("10.0.0.7", "10.0.0.7", "10.0.0.6"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.168.1.128/25", "192.168.1.255", "192.168.1.127"),
            ("fd00::/8", "fdff::1", "fe00::"),
            ("0.0.0.0/0", "255.0.0.1", "2001:db8::1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network:?}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?}");
        }
        assert!("::/0".parse::<Network>().unwrap().contains("192.0.2.1".parse().unwrap()));
        for text in ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "a/8", "localhost"] {
            text.parse::<Network>().unwrap_err();
        }
    }
}
