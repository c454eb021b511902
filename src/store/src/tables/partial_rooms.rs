//! Rooms that this server has joined before knowing their members. Written by the rooms crate, but for `pending_device_lists`.
//!
//! The rows of a room go when all of its members are known, but for `resynced_rooms`.

use ruma::{OwnedEventId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{EventNid, Position, RoomNid},
    record,
    record::Stamped,
    table::Table,
};

/// How a room came to have partial state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartialRoomRecord {
    /// The server that let this one in: the first to be asked for the rest.
    pub via: OwnedServerName,
    /// The join, and its depth.
    pub join: EventNid,
    pub depth: u64,
}
record!(PartialRoomRecord, 1);

/// Room -> how it came to have partial state, stamped with the position of the join.
pub const PARTIAL_ROOMS: Table<RoomNid, Stamped<PartialRoomRecord>> = Table::new(204, "partial_rooms").cached();

/// Room, server: the servers that are in the room by the word of the one that let this one in.
pub const PARTIAL_SERVERS: Table<(RoomNid, OwnedServerName), ()> = Table::new(205, "partial_servers");

/// Room, position -> event that was judged and placed while the room had partial state, in the order in which that happened.
pub const PARTIAL_EVENTS: Table<(RoomNid, Position), EventNid> = Table::new(206, "partial_events");

/// Room, event id -> root of the state after an event that is in no timeline here, as another server told it. Only for prev
/// events of those in `partial_events`.
pub const FETCHED_STATES: Table<(RoomNid, OwnedEventId), [u8; 16]> = Table::new(207, "fetched_states");

/// Room -> the position of the last join with partial state, stamped with the position at which all members became known. Read by
/// sync. At most a row a room.
pub const RESYNCED_ROOMS: Table<RoomNid, Stamped<Position>> = Table::new(208, "resynced_rooms").cached();

/// What is left to be done once a room's members are known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FinishedResync {
    pub room: RoomNid,
    /// Servers that were in the room since the join without this one knowing: they have missed what it sent.
    pub missed: Vec<OwnedServerName>,
    /// Remote users of whom device list updates came while it could not be told whether they are in the room.
    pub updated_users: Vec<OwnedUserId>,
}
record!(FinishedResync, 1);

/// Position -> a room all of whose members have become known, stamped with the position of the join. Read and deleted by the
/// services' device lists.
pub const FINISHED_RESYNCS: Table<Position, Stamped<FinishedResync>> = Table::new(209, "finished_resyncs");

/// Room, remote user: a device list update came of somebody who may be in the room. Written by the services' device lists.
pub const PENDING_DEVICE_LISTS: Table<(RoomNid, OwnedUserId), ()> = Table::new(210, "pending_device_lists");
