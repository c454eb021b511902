//! The last presence that local users set. Written and read by the services' presence module only, which keeps the live state
//! in memory.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use crate::{record, table::Table};

/// What a user last set by hand.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PresenceRecord {
    /// `online`, `unavailable` or `offline`.
    pub state: String,
    pub status_msg: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub last_active_ms: u64,
}
record!(PresenceRecord, 1);

/// Local user -> what they last set. One row a user at most.
pub const PRESENCE: Table<OwnedUserId, PresenceRecord> = Table::new(118, "presence").cached();
