//! Events of other servers that wait for something before them.
//!
//! Written and read by the rooms crate's `left_out` module only. A bounded number of rows a room, each deleted when its event finds
//! its place or is given up.

use ruma::{OwnedEventId, OwnedServerName};
use serde::{Deserialize, Serialize};

use crate::{RoomNid, Table};

/// Room, event id -> an event that could not be placed, with when to try again.
pub const LEFT_OUT_EVENTS: Table<(RoomNid, OwnedEventId), LeftOutRecord> = Table::new(198, "left_out_events");

/// An event that was checked and not placed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeftOutRecord {
    /// Who sent it.
    pub server: OwnedServerName,
    /// How often it has been tried.
    pub tries: u32,
    /// When to try again, in milliseconds since the epoch.
    pub retry_at_ms: u64,
    /// The event in federation format, as JSON text.
    pub json: String,
}

crate::record!(LeftOutRecord, 1);
