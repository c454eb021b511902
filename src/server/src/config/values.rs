//! Readers for values whose type is not plain TOML, with messages that say what is allowed.

use std::{fmt, str::FromStr};

use ipnet::IpNet;
use ruma::{OwnedServerName, RoomVersionId};
use serde::{
    Deserialize, Deserializer, Serializer,
    de::{self, Unexpected},
};

fn parsed<'de, D, T>(deserializer: D, allowed: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| de::Error::invalid_value(Unexpected::Str(&text), &allowed))
}

pub(super) fn server_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OwnedServerName, D::Error> {
    let text = String::deserialize(deserializer)?;
    let allowed = "a host name or address, with a port if it has one, such as agence.example or agence.example:8448";
    OwnedServerName::try_from(text.as_str()).map_err(|_| de::Error::invalid_value(Unexpected::Str(&text), &allowed))
}

pub(super) fn server_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OwnedServerName>, D::Error> {
    #[derive(Deserialize)]
    struct Name(#[serde(deserialize_with = "server_name")] OwnedServerName);
    Ok(Vec::<Name>::deserialize(deserializer)?.into_iter().map(|name| name.0).collect())
}

pub(super) fn room_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RoomVersionId, D::Error> {
    let text = String::deserialize(deserializer)?;
    let allowed = "a room version this server can create, such as \"11\" or \"12\"";
    RoomVersionId::try_from(text.as_str()).map_err(|_| de::Error::invalid_value(Unexpected::Str(&text), &allowed))
}

/// Networks in CIDR notation; a lone address stands for itself.
pub(super) mod networks {
    use super::*;
    use serde::ser::SerializeSeq;

    struct Network(IpNet);

    impl FromStr for Network {
        type Err = ();
        fn from_str(text: &str) -> Result<Self, ()> {
            let network = text.parse::<IpNet>().ok();
            let address = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
            network.or_else(address).map(Self).ok_or(())
        }
    }

    impl<'de> Deserialize<'de> for Network {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            parsed(deserializer, "a network such as 10.0.0.0/8 or fd00::/8, or an address")
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
        Ok(Vec::<Network>::deserialize(deserializer)?.into_iter().map(|network| network.0).collect())
    }

    pub(in crate::config) fn serialize<S: Serializer>(networks: &[IpNet], serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(networks.len()))?;
        for network in networks {
            list.serialize_element(&network.to_string())?;
        }
        list.end()
    }
}

/// Reads a type through its `FromStr`, and says `allowed` when that fails.
pub(super) fn from_text<'de, D, T>(deserializer: D, allowed: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
{
    parsed(deserializer, allowed)
}

/// Writes a type through its `Display`.
pub(super) fn to_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
