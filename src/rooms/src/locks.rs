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
    write: LockMap,
    ingest: LockMap,
}

#[derive(Default)]
struct LockMap {
    locks: Mutex<HashMap<OwnedRoomId, Weak<Lock>>>,
}

/// How many entries may gather before those of idle rooms are swept out.
const SWEEP_AT: usize = 1024;

impl LockMap {
    fn lock(&self, room_id: &RoomId) -> Arc<Lock> {
        let mut locks = self.locks.lock();
        if let Some(lock) = locks.get(room_id).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() >= SWEEP_AT {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(Lock::new(()));
        locks.insert(room_id.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

impl RoomLocks {
    pub(crate) async fn write(&self, room_id: &RoomId) -> OwnedMutexGuard<()> {
        self.write.lock(room_id).lock_owned().await
    }

    pub(crate) async fn ingest(&self, room_id: &RoomId) -> OwnedMutexGuard<()> {
        self.ingest.lock(room_id).lock_owned().await
    }
}
