//! Rooms: their heads, members, and who is where. Written by the rooms crate only.

use ruma::{OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{EventNid, Position, RoomNid},
    record,
    record::{Json, Stamped},
    table::Table,
};

/// A room that this server takes or took part in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RoomRecord {
    pub version: String,
    /// Root of the current state.
    pub state: [u8; 16],
    /// The events that no accepted event names yet.
    pub forward_extremities: Vec<(EventNid, OwnedEventId, u64)>,
    /// Members are still being fetched after a fast join.
    pub partial_state: bool,
}
record!(RoomRecord, 1);

pub const ROOMS: Table<RoomNid, RoomRecord> = Table::new(24, "rooms").cached();

/// A user's membership in a room, local users and remote ones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    /// `join`, `invite`, `knock`, `leave` or `ban`.
    pub membership: String,
    /// The member event; `None` when this server knows of it only by an invite or knock over federation (see `stripped_state`).
    pub event: Option<EventNid>,
    pub event_id: OwnedEventId,
    pub sender: OwnedUserId,
    pub display_name: Option<String>,
    pub avatar_url: Option<String>,
}
record!(MemberRecord, 1);

/// Room, user -> membership, stamped with the position it changed at.
pub const MEMBERS: Table<(RoomNid, OwnedUserId), Stamped<MemberRecord>> = Table::new(25, "members").cached();

/// Local user, room -> membership, stamped: the same rows from the user's side. Local users only.
pub const USER_ROOMS: Table<(OwnedUserId, RoomNid), Stamped<MemberRecord>> = Table::new(26, "user_rooms");

/// Local user, position -> room: each change of the user's membership in a room, in order. Read by sync.
pub const MEMBERSHIP_LOG: Table<(OwnedUserId, Position), RoomNid> = Table::new(27, "membership_log");

/// Room, server -> number of its joined users. Rows exist while the number is positive, and for the servers of `partial_servers`.
pub const JOINED_SERVERS: Table<(RoomNid, OwnedServerName), u64> = Table::new(28, "joined_servers").cached().listed();

/// Local user, room -> the stripped state that came with an invite, or that answers a knock: a JSON array.
pub const STRIPPED_STATE: Table<(OwnedUserId, RoomNid), Json<Vec<serde_json::Value>>> =
    Table::new(29, "stripped_state");

/// Local user, room -> position: the user has forgotten the room; it shows nowhere any more.
pub const FORGOTTEN: Table<(OwnedUserId, RoomNid), Position> = Table::new(30, "forgotten");

/// Alias -> the room, and who made the alias. Local aliases only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AliasRecord {
    pub room: RoomNid,
    pub creator: OwnedUserId,
}
record!(AliasRecord, 1);

pub const ALIASES: Table<OwnedRoomAliasId, AliasRecord> = Table::new(31, "aliases");

/// Room, alias: the local aliases of a room.
pub const ROOM_ALIASES: Table<(RoomNid, OwnedRoomAliasId), ()> = Table::new(32, "room_aliases");

/// Rooms in the public room list.
pub const PUBLIC_ROOMS: Table<RoomNid, ()> = Table::new(33, "public_rooms");

/// Server, room: the rooms that a server has joined users in. The same rows as [`JOINED_SERVERS`], from the server's side.
pub const SERVER_ROOMS: Table<(OwnedServerName, RoomNid), ()> = Table::new(34, "server_rooms");

/// Room -> its version, for rooms known only by an invite or knock of a local user.
pub const OUT_OF_BAND_VERSIONS: Table<RoomNid, String> = Table::new(143, "out_of_band_versions");

/// Room, room that a current `m.space.child` event of the first names as its state key -> that event, be the link valid or not.
pub const SPACE_CHILDREN: Table<(RoomNid, OwnedRoomId), EventNid> = Table::new(172, "space_children");
