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

/// Every supported version, oldest first.
pub const SUPPORTED: &[RoomVersionId] = &[
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

/// The rules of a supported version, `None` for any other.
pub fn rules(version: &RoomVersionId) -> Option<RoomVersionRules> {
    SUPPORTED.contains(version).then(|| version.rules()).flatten()
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
    fn every_supported_version_has_rules_and_is_stable() {
        assert_eq!(supported().len(), 12);
        for (version, stability) in supported() {
            assert!(rules(&version).is_some() && is_supported(&version));
            assert_eq!(stability, RoomVersionStability::Stable);
        }
    }

    #[test]
    fn unknown_versions_are_refused() {
        let future = RoomVersionId::try_from("org.example.future").unwrap();
        assert!(rules(&future).is_none() && !is_supported(&future));
    }
}
