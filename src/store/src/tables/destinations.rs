//! How other servers have been answering.
//!
//! | table | key | value |
//! |---|---|---|
//! | `DESTINATIONS` (82) | server name | since when it fails, and when to try again |
//!
//! Written by the federation client when a server begins to fail, fails again or recovers (then the row is deleted). Read once
//! at start. At most one row a server that is down.

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

use crate::Table;

/// Servers that do not answer.
pub const DESTINATIONS: Table<OwnedServerName, DestinationRecord> = Table::new(82, "destinations").cached();

/// The failure of one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DestinationRecord {
    /// First failure since the last success, in milliseconds since the epoch.
    pub failing_since_ms: u64,
    /// No background request before this instant, in milliseconds since the epoch.
    pub retry_at_ms: u64,
    /// The pause that led to `retry_at_ms`, in milliseconds: the next one is longer.
    pub pause_ms: u64,
}

crate::record!(DestinationRecord, 1);
