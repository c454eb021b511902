//! `[rooms]`: what new rooms are like when their creator does not say.

use chappe_protocol::room_version;
use ruma::RoomVersionId;
use serde::{Deserialize, Serialize};

use super::{Refusals, values};

/// Defaults for new rooms.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoomsSection {
    #[serde(deserialize_with = "values::room_version")]
    pub default_version: RoomVersionId,
    pub default_encryption: DefaultEncryption,
}

/// Which new rooms are encrypted although their creator did not ask.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultEncryption {
    #[default]
    Off,
    /// Rooms made with the private presets, which one is invited to.
    Invite,
    All,
}

impl Default for RoomsSection {
    fn default() -> Self {
        // The specification's own recommendation since its version 1.16.
        Self { default_version: RoomVersionId::V12, default_encryption: DefaultEncryption::Off }
    }
}

impl RoomsSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        if !room_version::is_supported(&self.default_version) {
            let found = format!("\"{}\"", self.default_version);
            refusals.add("rooms.default_version", found, "a room version from \"1\" to \"12\"");
        }
    }
}
