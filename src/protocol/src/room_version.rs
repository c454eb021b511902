//! The room versions this server takes part in, and their rules.
//!
//! Differences between versions live in ruma's rules structs and are asked for by name
//! (`rules.authorization.restricted_join_rule`), never by comparing version numbers.
//!
//! Versions 1 to 5 tolerated events whose JSON is not canonical JSON (numbers with a fraction, integers beyond
//! 2^53). Such an event is dropped here; everything else of those versions is supported.

use ruma::{
    RoomVersionId,
    api::client::discovery::get_capabilities::v3::RoomVersionStability,
    room_version_rules::{RoomVersionDisposition, RoomVersionRules},
};

use crate::owned_state;

/// Every supported version of the specification, oldest first.
const STABLE: &[RoomVersionId] = &[
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// Every supported version: those of the specification, oldest first, then those of proposals.
pub fn supported_versions() -> Vec<RoomVersionId> {
    let mut versions = STABLE.to_vec();
    versions.extend(RoomVersionId::try_from(owned_state::ROOM_VERSION));
    versions
}

/// The rules of a supported version, `None` for any other.
pub fn rules(version: &RoomVersionId) -> Option<RoomVersionRules> {
    if STABLE.contains(version) {
        return version.rules();
    }
    if version.as_str() != owned_state::ROOM_VERSION {
        return None;
    }
    let mut rules = RoomVersionId::V10.rules()?;
    rules.disposition = RoomVersionDisposition::Unstable;
    Some(rules)
}

/// Whether rooms of this version can be created, joined and kept.
pub fn is_supported(version: &RoomVersionId) -> bool {
    rules(version).is_some()
}

/// Every supported version with its stability, as `/capabilities` reports them.
///
/// Spec: Client-Server API, `m.room_versions` capability.
pub fn supported() -> Vec<(RoomVersionId, RoomVersionStability)> {
    let stability = |version: RoomVersionId| {
        let stability = match rules(&version)?.disposition {
            RoomVersionDisposition::Stable => RoomVersionStability::Stable,
            RoomVersionDisposition::Unstable => RoomVersionStability::Unstable,
        };
        Some((version, stability))
    };
    supported_versions().into_iter().filter_map(stability).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_version_has_rules_and_those_of_the_specification_are_stable() {
        assert_eq!(supported().len(), 13);
        for (version, stability) in supported() {
            assert!(rules(&version).is_some() && is_supported(&version));
            assert_eq!(stability == RoomVersionStability::Stable, STABLE.contains(&version));
        }
    }

    #[test]
    fn unknown_versions_are_refused() {
        let future = RoomVersionId::try_from("org.example.future").unwrap();
        assert!(rules(&future).is_none() && !is_supported(&future));
    }
}
