//! The room versions this server takes part in, and their rules.
//!
//! Differences between versions live in ruma's rules structs and are asked for by name
//! (`rules.authorization.restricted_join_rule`), never by comparing version numbers.
//!
//! Version 1 is not supported: its state resolution algorithm exists in no library used here. Versions 2 to 5
//! are supported except for events whose JSON is not canonical JSON (numbers with a fraction, integers beyond
//! 2^53), which those versions tolerated; such an event is dropped.

use ruma::{
    RoomVersionId,
    api::client::discovery::get_capabilities::v3::RoomVersionStability,
    room_version_rules::{RoomVersionDisposition, RoomVersionRules},
};

/// Every supported version, oldest first.
pub const SUPPORTED: &[RoomVersionId] = &[
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

/// The rules of a supported version, `None` for any other.
pub fn rules(version: &RoomVersionId) -> Option<RoomVersionRules> {
    SUPPORTED
        .contains(version)
        .then(|| version.rules())
        .flatten()
}

/// Whether rooms of this version can be created, joined and kept.
pub fn is_supported(version: &RoomVersionId) -> bool {
    SUPPORTED.contains(version)
}

/// Every supported version with its stability, as `/capabilities` reports them.
///
/// Spec: Client-Server API, `m.room_versions` capability.
pub fn supported() -> Vec<(RoomVersionId, RoomVersionStability)> {
    SUPPORTED
        .iter()
        .filter_map(|version| {
            let stability = match version.rules()?.disposition {
                RoomVersionDisposition::Stable => RoomVersionStability::Stable,
                RoomVersionDisposition::Unstable => RoomVersionStability::Unstable,
            };
            Some((version.clone(), stability))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_version_has_rules_and_a_state_resolution() {
        assert_eq!(supported().len(), SUPPORTED.len());
        for version in SUPPORTED {
            let rules = rules(version).unwrap();
            assert!(rules.state_res.v2_rules().is_some(), "{version}");
        }
    }

    #[test]
    fn unknown_and_unresolvable_versions_are_refused() {
        assert!(rules(&RoomVersionId::V1).is_none());
        assert!(rules(&RoomVersionId::try_from("org.example.future").unwrap()).is_none());
    }
}
