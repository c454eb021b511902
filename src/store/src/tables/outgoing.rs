//! What waits to be sent to other servers.
//!
//! | table | key | value |
//! |---|---|---|
//! | `OUTGOING` (80) | server name, position | an event (by number) or an EDU (its JSON) |
//!
//! Written inside the batch that made the thing to send: by the room engine for events, by the services for
//! EDUs. Read and deleted by the federation sender alone, which deletes a row once the other server acknowledged
//! it. Grows with every event a server that is down has missed.

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

use crate::{EventNid, Position, Table};

/// Everything a server has yet to be sent, in the order in which it happened.
pub const OUTGOING: Table<(OwnedServerName, Position), OutgoingItem> = Table::new(80, "outgoing");

/// One thing to send.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum OutgoingItem {
    /// An event of ours, sent in the form in which it is stored.
    Pdu(EventNid),
    /// An EDU: the whole object with `edu_type` and `content`, as JSON text.
    Edu(String),
    /// An EDU that makes an older waiting one with the same key pointless (a device list of one user, a receipt of one user
    /// in one room): only the newest is sent.
    CoalescedEdu { key: String, edu: String },
}

crate::record!(OutgoingItem, 1);
