//! What the connections of sliding sync have been told. Written and read by the services' `sliding_sync` module only.

use ruma::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{record, table::Table};

/// What a connection has been told of one room.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SentRoom {
    /// Which state: a key of [`ConnectionRecord::configs`].
    pub config: u64,
    pub timeline_limit: u32,
    /// The position up to which the room was told; `None`: up to the position that the client comes with.
    pub up_to: Option<u64>,
}

/// A room of a connection, as of the last two answers that differ, by their numbers. `None`: not told, or no longer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SentRoomVersions {
    pub older: Option<(u64, Option<SentRoom>)>,
    pub newer: Option<(u64, Option<SentRoom>)>,
}

/// A connection.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// The answer that the last one was made for, and the last one: a client comes with one of them.
    pub older: u64,
    pub newer: u64,
    /// Hash -> pairs of event type and state key that rooms are told of.
    pub configs: Vec<(u64, Vec<(String, String)>)>,
    /// Milliseconds since the Unix epoch, to about an hour.
    pub used_at_ms: u64,
}

/// A row of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SlidingSyncRecord {
    Connection(ConnectionRecord),
    Room(SentRoomVersions),
}
record!(SlidingSyncRecord, 1);

/// User, device, connection id, 0 or a room's number plus one -> the connection, or what it has been told of the room. Rows go when the
/// connection begins anew or has not been used for long.
pub const SLIDING_SYNC: Table<(OwnedUserId, OwnedDeviceId, String, u64), SlidingSyncRecord> =
    Table::new(163, "sliding_sync");
