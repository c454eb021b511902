//! `[listen]`: where the server accepts connections.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Refusals, values};

/// Addresses and limits of the listeners.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSection {
    /// Plain HTTP, for clients and for a reverse proxy in front.
    pub client: Vec<ListenAddress>,
    /// TLS when a certificate is configured, for other servers. An address in both lists serves both, with TLS.
    pub federation: Vec<ListenAddress>,
    /// Reverse proxies whose `X-Forwarded-For` is believed. Unix sockets are always believed.
    #[serde(with = "values::networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Open connections, over all listeners; more wait to be accepted.
    pub max_connections: usize,
    /// How long a connection may take to send a request's head.
    pub header_timeout_seconds: u64,
    /// How long a stopping server waits for the requests in progress.
    pub shutdown_grace_seconds: u64,
}

impl Default for ListenSection {
    fn default() -> Self {
        let tcp = |address: [u8; 4], port: u16| ListenAddress::Tcp(SocketAddr::from((address, port)));
        Self {
            client: vec![tcp([127, 0, 0, 1], 8008)],
            federation: vec![tcp([0, 0, 0, 0], 8448)],
            trusted_proxies: Vec::new(),
            max_connections: 20_000,
            header_timeout_seconds: 15,
            shutdown_grace_seconds: 10,
        }
    }
}

impl ListenSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        if self.client.is_empty() && self.federation.is_empty() {
            refusals.add(
                "listen.client",
                "no address, and none in listen.federation",
                "at least one address in one of them",
            );
        }
        if self.max_connections == 0 {
            refusals.add("listen.max_connections", "0", "a number of connections from 1");
        }
        if self.header_timeout_seconds == 0 {
            refusals.add("listen.header_timeout_seconds", "0", "a number of seconds from 1");
        }
    }
}

/// An address and port, or the path of a unix socket written `unix:/path`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.strip_prefix("unix:") {
            Some("") => Err(()),
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None => text.parse().map(Self::Tcp).map_err(|_| ()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        values::from_text(
            deserializer,
            "an address and port such as 127.0.0.1:8008 or [::]:8448, or unix:/path/of/socket",
        )
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        values::to_text(self, serializer)
    }
}
