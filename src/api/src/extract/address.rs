//! Where a request comes from: the address that limits are counted by and that devices are last seen at.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::extract::{ConnectInfo, FromRef, FromRequestParts};
use http::request::Parts;
use ipnet::IpNet;

/// Request extension: the connected peer, set by whoever accepts connections. `None` is a unix socket, whose peer is always
/// a proxy of ours. Axum's `ConnectInfo<SocketAddr>` serves as well.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub Option<IpAddr>);

/// Networks of the reverse proxies whose `X-Forwarded-For` is believed. Empty: nobody's is.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(pub Vec<IpNet>);

impl TrustedProxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address.to_canonical()))
    }
}

/// The client's address; `None` when it cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub Option<IpAddr>);

impl<S> FromRequestParts<S> for ClientAddress
where
    Arc<TrustedProxies>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Self(client_address(parts, &Arc::<TrustedProxies>::from_ref(state))))
    }
}

fn client_address(parts: &Parts, proxies: &TrustedProxies) -> Option<IpAddr> {
    let peer = match parts.extensions.get::<PeerAddress>() {
        Some(PeerAddress(peer)) => *peer,
        None => Some(parts.extensions.get::<ConnectInfo<SocketAddr>>()?.0.ip()),
    };
    if peer.is_some_and(|peer| !proxies.trusts(peer)) {
        return peer.map(|peer| peer.to_canonical());
    }
    // Each proxy appends the address it saw: the first one from the right that is not a proxy of ours is the client.
    let forwarded = parts.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<IpAddr> =
        forwarded.flat_map(|value| value.split(',')).filter_map(|hop| hop.trim().parse().ok()).collect();
    let client = hops.iter().rev().find(|hop| !proxies.trusts(**hop)).copied();
    client.or(peer).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(peer: &str, forwarded: &str) -> Parts {
        let request = http::Request::builder()
            .header("x-forwarded-for", forwarded)
            .extension(PeerAddress(peer.parse().ok()))
            .body(())
            .unwrap();
        request.into_parts().0
    }

    #[test]
    fn forwarded_address_of_a_stranger_is_not_believed() {
        let proxies = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(client_address(&parts("192.0.2.1", "198.51.100.7"), &proxies), "192.0.2.1".parse().ok());
    }

    #[test]
    fn forwarded_address_of_a_proxy_is_the_rightmost_that_is_no_proxy() {
        let proxies = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(
            client_address(&parts("10.0.0.1", "203.0.113.9, 198.51.100.7, 10.0.0.2"), &proxies),
            "198.51.100.7".parse().ok()
        );
    }
}
