//! `[search]`: whether messages can be searched.

use serde::{Deserialize, Serialize};

/// The index of messages takes disk space, about as much as the text of the messages.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSection {
    pub enabled: bool,
}

impl Default for SearchSection {
    fn default() -> Self {
        Self { enabled: true }
    }
}
