//! Delayed events (MSC4140): what users have asked to be sent later. Written and read by the services' delayed events module only.
//!
//! Everything of one user changes under that user's account domain. Each event has a row in every table here until it is forgotten, some
//! time after it was sent, cancelled or refused.

use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{record, record::Stamped, table::Table};

/// How a delayed event ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DelayedOutcome {
    Sent {
        event_id: OwnedEventId,
    },
    Cancelled,
    /// The room would not have it. Errcode and message, as its sender may see them.
    Refused {
        errcode: String,
        message: String,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DelayedEventRecord {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub room_id: OwnedRoomId,
    pub event_type: String,
    /// Present for state events.
    pub state_key: Option<String>,
    /// Canonical JSON text.
    pub content: String,
    /// The target of a redaction.
    pub redacts: Option<OwnedEventId>,
    /// The client's own name for the request, if it has one.
    pub transaction_id: Option<String>,
    pub delay_ms: u64,
    /// When the delay last began to run, in milliseconds since the Unix epoch.
    pub running_since_ms: u64,
    /// How it ended and when; `None` while it is scheduled.
    pub outcome: Option<(DelayedOutcome, u64)>,
}
record!(DelayedEventRecord, 1);

/// Delay id -> delayed event, stamped with the position at which it was scheduled.
pub const DELAYED_EVENTS: Table<String, Stamped<DelayedEventRecord>> = Table::new(176, "delayed_events");

/// Time in milliseconds, delay id: when a scheduled event is to be sent, and when one that has ended is forgotten.
pub const DELAYED_EVENT_TIMES: Table<(u64, String), ()> = Table::new(177, "delayed_event_times");

/// User, delay id: a user's delayed events. The value says whether it is scheduled (1) or has ended (0).
pub const USER_DELAYED_EVENTS: Table<(OwnedUserId, String), u64> = Table::new(178, "user_delayed_events");

/// Room, delay id: scheduled state events of a room, which newer state may cancel.
pub const ROOM_DELAYED_EVENTS: Table<(OwnedRoomId, String), ()> = Table::new(179, "room_delayed_events");

/// User, device, room, the client's transaction id -> delay id.
pub const DELAYED_EVENT_TRANSACTIONS: Table<(OwnedUserId, OwnedDeviceId, OwnedRoomId, String), String> =
    Table::new(180, "delayed_event_transactions");
