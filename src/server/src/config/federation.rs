//! `[federation]`: which other servers this one talks to, and which addresses it may reach for that.

use std::collections::BTreeMap;

use ipnet::IpNet;
use ruma::{OwnedServerName, OwnedServerSigningKeyId, serde::Base64};
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
    /// Servers of which only these keys are believed: server name -> id -> base64.
    pub pinned_keys: BTreeMap<String, BTreeMap<String, String>>,
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
            pinned_keys: BTreeMap::new(),
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
        for (server, keys) in &self.pinned_keys {
            let key = "federation.pinned_keys";
            if OwnedServerName::try_from(server.as_str()).is_err() {
                refusals.add(key, format!("\"{server}\""), "the name of a server");
            }
            if keys.is_empty() {
                refusals.add(key, format!("no key of {server}"), "at least one key of each server that is named");
            }
            for (key_id, public_key) in keys {
                if pinned_key(key_id, public_key).is_none() {
                    refusals.add(
                        key,
                        format!("{key_id} = \"{public_key}\""),
                        "an id such as ed25519:a_1, and the 32 bytes of the public key in base64",
                    );
                }
            }
        }
    }

    /// The pinned keys, parsed. Those that [`Self::check`] refuses are left out.
    pub fn parse_pinned_keys(&self) -> BTreeMap<OwnedServerName, BTreeMap<OwnedServerSigningKeyId, Vec<u8>>> {
        let parse = |keys: &BTreeMap<String, String>| keys.iter().filter_map(|(id, key)| pinned_key(id, key)).collect();
        let servers = self.pinned_keys.iter();
        servers.filter_map(|(server, keys)| Some((server.as_str().try_into().ok()?, parse(keys)))).collect()
    }
}

fn pinned_key(key_id: &str, public_key: &str) -> Option<(OwnedServerSigningKeyId, Vec<u8>)> {
    let key_id = OwnedServerSigningKeyId::try_from(key_id).ok().filter(|_| key_id.starts_with("ed25519:"))?;
    let key: Base64 = Base64::parse(public_key).ok()?;
    (key.as_bytes().len() == 32).then(|| (key_id, key.into_inner()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(server: &str, keys: &[(&str, &str)]) -> bool {
        let keys = keys.iter().map(|(id, key)| ((*id).to_owned(), (*key).to_owned())).collect();
        let section =
            FederationSection { pinned_keys: [(server.to_owned(), keys)].into(), ..FederationSection::default() };
        let mut refusals = Refusals::default();
        section.check(&mut refusals);
        let is_refused = !refusals.0.is_empty();
        assert_eq!(!is_refused, section.parse_pinned_keys().values().any(|keys| !keys.is_empty()), "{server}");
        is_refused
    }

    #[test]
    fn pinned_keys_are_ids_and_keys_of_servers() {
        let key = "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw";
        assert!(!refused("agence.example:8448", &[("ed25519:a_1", key)]));
        assert!(refused("https://agence.example", &[("ed25519:a_1", key)]));
        assert!(refused("agence.example", &[]));
        assert!(refused("agence.example", &[("curve25519:a", key)]));
        assert!(refused("agence.example", &[("ed25519:a_1", "c2hvcnQ")]));
        assert!(refused("agence.example", &[("ed25519:a_1", "no base64 at all")]));
    }
}
