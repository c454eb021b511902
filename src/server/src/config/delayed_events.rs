//! `[delayed_events]`: events that users hand in to be sent later.

use serde::{Deserialize, Serialize};

/// Bounds on delayed events.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DelayedEventsSection {
    /// The longest delay; 0 refuses all.
    pub max_delay_seconds: u64,
    /// How many a user may have scheduled at a time.
    pub max_per_user: usize,
}

impl Default for DelayedEventsSection {
    fn default() -> Self {
        Self { max_delay_seconds: 86_400, max_per_user: 100 }
    }
}
