//! One writer at a time per room.
//!
//! Two locks a room: `write` is held while one event is computed and enqueued, never across the network; `ingest` puts what other
//! servers send into one queue a room, and may be held while they are asked for what is missing.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::OwnedMutexGuard;

type Lock = tokio::sync::Mutex<()>;

#[derive(Default)]
pub(crate) struct RoomLocks {
    write: OfRooms<Lock>,
    ingest: OfRooms<Lock>,
}

/// One thing for each room in which somebody has a use for it just now.
pub(crate) struct OfRooms<T> {
    things: Mutex<HashMap<OwnedRoomId, Weak<T>>>,
}

/// How many entries may gather before those of idle rooms are swept out.
const SWEEP_AT: usize = 1024;

impl<T> Default for OfRooms<T> {
    fn default() -> Self {
        Self { things: Mutex::default() }
    }
}

impl<T: Default> OfRooms<T> {
    /// What others who are using it have too.
    pub(crate) fn get(&self, room_id: &RoomId) -> Arc<T> {
        let mut things = self.things.lock();
        if let Some(thing) = things.get(room_id).and_then(Weak::upgrade) {
            return thing;
        }
        if things.len() >= SWEEP_AT {
            things.retain(|_, thing| thing.strong_count() > 0);
        }
        let thing = Arc::new(T::default());
        things.insert(room_id.to_owned(), Arc::downgrade(&thing));
        thing
    }
}

impl RoomLocks {
    pub(crate) async fn write(&self, room_id: &RoomId) -> OwnedMutexGuard<()> {
        self.write.get(room_id).lock_owned().await
    }

    pub(crate) async fn ingest(&self, room_id: &RoomId) -> OwnedMutexGuard<()> {
        self.ingest.get(room_id).lock_owned().await
    }
}
