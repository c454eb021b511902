//! What is kept in memory of each room that is written to, so that an event need not look it up in the store: what every batch would.

use std::{collections::BTreeMap, sync::Arc};

use chappe_store::RoomNid;
use quick_cache::sync::Cache;
use ruma::OwnedServerName;

use crate::timeline::Place;

/// Of how many rooms it is kept.
const ROOMS_MAX: usize = 10_000;

/// Server -> how many of its users are joined.
pub(crate) type JoinedServers = BTreeMap<OwnedServerName, u64>;

#[derive(Clone)]
pub(crate) struct Head {
    /// Where the deepest live event stands, if that is known.
    pub(crate) deepest: Option<Place>,
    /// The servers with joined users, this one included, and how many users of each are.
    pub(crate) servers: Arc<JoinedServers>,
}

/// Heads of rooms as of their last batches. Put by who holds a room's write lock, after enqueuing; read by who prepares a batch.
pub(crate) struct Heads(Cache<RoomNid, Head>);

impl Default for Heads {
    fn default() -> Self {
        Self(Cache::new(ROOMS_MAX))
    }
}

impl Heads {
    pub(crate) fn get(&self, room: RoomNid) -> Option<Head> {
        self.0.get(&room)
    }

    pub(crate) fn put(&self, room: RoomNid, head: Head) {
        self.0.insert(room, head);
    }
}
