//! `[presence]`: whether users see who is online.

use serde::{Deserialize, Serialize};

/// Presence costs work for every change of every user, on every server they share a room with.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PresenceSection {
    pub enabled: bool,
}

impl Default for PresenceSection {
    fn default() -> Self {
        Self { enabled: true }
    }
}
