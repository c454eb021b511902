//! Relations between events, and threads. Written by the rooms crate only, in the batch of the event that relates.

use ruma::OwnedEventId;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{EventNid, Order, RoomNid},
    record,
    table::Table,
};

/// Room, target event id, list, rank, order -> relating event. A target has several lists: of all that relates to it (named ""),
/// of each relation type, and of each sender's edits and annotations; the rooms crate's `relations` module names them. The rank is the
/// relating event's depth, in lists by sender its `origin_server_ts`. Rows go when the relating event is redacted.
pub const RELATED: Table<(RoomNid, OwnedEventId, String, u64, Order), EventNid> = Table::new(158, "related");

/// How much of a thread there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ThreadRecord {
    /// The replies that are not redacted.
    pub count: u64,
    /// The last of them in the room's topological order; for one sender's part `None`.
    pub latest: Option<EventNid>,
}
record!(ThreadRecord, 1);

/// Room, thread root, sender ("" for all together) -> the thread. Rows exist while there are replies.
pub const THREADS: Table<(RoomNid, OwnedEventId, String), ThreadRecord> = Table::new(159, "threads").cached();

/// Room, depth and order of a thread's last reply -> thread root: the room's threads by their last reply.
pub const ROOM_THREADS: Table<(RoomNid, u64, Order), OwnedEventId> = Table::new(160, "room_threads");
