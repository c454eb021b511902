//! The auth-chain index: a chain cover of the graph of auth events. Written and read by the rooms crate's `auth_chain` module only.
//!
//! Each indexed event has a place: a chain, and a sequence number in it from 1 upwards. An event reaches, by auth edges, all
//! events before it in its chain; what it reaches beyond that is in links. Rows are never changed. A chain is of one room.

use serde::{Deserialize, Serialize};

use crate::{ids::EventNid, record, table::Table};

/// Where an event stands in the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuthPlace {
    /// The chain, named by the number of its first event.
    pub chain: u64,
    /// From 1 upwards, without holes.
    pub sequence: u64,
    /// The length of the longest path to an event without auth events, plus one: greater than that of any event it reaches.
    pub rank: u64,
}
record!(AuthPlace, 1);

/// Event -> its place. Grows with the state events of all rooms.
pub const AUTH_PLACES: Table<EventNid, AuthPlace> = Table::new(22, "auth_places").cached();

/// Chain, sequence number -> event: the same places from the chain's side.
pub const AUTH_CHAINS: Table<(u64, u64), EventNid> = Table::new(23, "auth_chains");

/// Chain, sequence number, other chain -> sequence number there: the event at the first place reaches the one at the second.
/// Links that follow from others may be absent. Grows with the state events of all rooms, by about one to three rows each.
pub const AUTH_LINKS: Table<(u64, u64, u64), u64> = Table::new(35, "auth_links");
