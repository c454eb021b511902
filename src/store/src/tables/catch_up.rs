//! Servers that have been away for so long that events are not queued for them one by one any more.
//!
//! Written and deleted by the federation sender; read by the room engine for each event and each server it would be queued for. At
//! most one row a server that is down.

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

use crate::Table;

/// Server -> since when its rooms are to be caught up with.
pub const CATCH_UP: Table<OwnedServerName, CatchUpRecord> = Table::new(199, "catch_up");

/// A server to be caught up with the newest events of its rooms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CatchUpRecord {
    /// The log position after which the server may have been sent nothing of its rooms.
    pub since: u64,
    /// It answers again: events are queued as usual, and what it missed is about to be.
    pub is_ending: bool,
}

crate::record!(CatchUpRecord, 1);
