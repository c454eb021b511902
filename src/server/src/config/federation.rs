//! `[federation]`: which other servers this one talks to, and which addresses it may reach for that.

use ipnet::IpNet;
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

use super::{Refusals, values};

/// Input of the one federation policy, and the exceptions of the one outbound connector.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederationSection {
    pub enabled: bool,
    /// Patterns of server names (`*` and `?`) that may take part; empty means everyone.
    pub allow: Vec<String>,
    /// Patterns of server names that may not, even when allowed above.
    pub deny: Vec<String>,
    /// Private networks that outgoing requests may reach. All others that are not public are refused.
    #[serde(with = "values::networks")]
    pub allow_networks: Vec<IpNet>,
    /// Whether other servers are told the names that users give their devices.
    pub share_device_names: bool,
    /// Servers asked for the signing keys of servers that do not answer themselves.
    #[serde(deserialize_with = "values::server_names")]
    pub trusted_key_servers: Vec<OwnedServerName>,
}

impl Default for FederationSection {
    fn default() -> Self {
        Self {
            enabled: true,
            allow: Vec::new(),
            deny: Vec::new(),
            allow_networks: Vec::new(),
            share_device_names: false,
            trusted_key_servers: Vec::new(),
        }
    }
}

impl FederationSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        for (key, patterns) in [("federation.allow", &self.allow), ("federation.deny", &self.deny)] {
            for pattern in patterns {
                let allowed_character = |c: char| c.is_ascii_alphanumeric() || "-.:[]*?".contains(c);
                if pattern.is_empty() || !pattern.chars().all(allowed_character) {
                    refusals.add(
                        key,
                        format!("\"{pattern}\""),
                        "a server name, in which * stands for anything and ? for one character",
                    );
                }
            }
        }
    }
}
