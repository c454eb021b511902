//! State trees. Written and read by the rooms crate's `state` module only.

use crate::{
    ids::{EventNid, Position, RoomNid, StateKeyNid},
    table::Table,
};

/// Room, hash of the node's bytes (128 bits) -> a node of a persistent state tree. Immutable. A room's trees go with the room.
pub const STATE_NODES: Table<(RoomNid, [u8; 16]), Vec<u8>> = Table::new(20, "state_nodes");

/// Room, state key -> event: the current state, flat, for direct reads. Of a room with partial state there may be more rows than
/// state: those of members about to become known.
pub const CURRENT_STATE: Table<(RoomNid, StateKeyNid), EventNid> = Table::new(21, "current_state").cached();

/// Room, position -> root of the current state since that position. A row at each change; so the state at any position, and the
/// difference between two, can be told. Read by sync.
pub const STATE_LOG: Table<(RoomNid, Position), [u8; 16]> = Table::new(141, "state_log");
