//! The hub that wakes long polls, and that knows which rooms and users something happened to since the start.
//!
//! It follows the log ([`Store::observe`]): each time the log becomes durable further it notes, for each topic, up to where, and
//! wakes who waits for it. What is not in the log (typing, presence) wakes through [`Waiters::wake_room`] and
//! [`Waiters::wake_user`]. Nothing here reads the store or decides what a client is told: a woken poll looks by itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chappe_store::{Position, RoomNid, Store, Topic};
use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::sync::Notify;

type WaiterId = u64;

/// The waiting polls of this process. Cheap to clone.
#[derive(Clone)]
pub struct Waiters {
    inner: Arc<Mutex<Inner>>,
    /// What happened before this is not in memory.
    started_at: Position,
}

#[derive(Default)]
struct Inner {
    /// Everything up to here has been noted in the maps below.
    position: Position,
    /// Room -> a position that no change of it that was noted is behind. A room that is missing has not changed since the start.
    rooms: HashMap<RoomNid, Position>,
    /// No room changed after this.
    last_room_change: Position,
    users: HashMap<OwnedUserId, Position>,
    next_id: WaiterId,
    waiting: HashMap<WaiterId, Arc<Notify>>,
    by_room: BTreeSet<(RoomNid, WaiterId)>,
    by_user: BTreeMap<OwnedUserId, BTreeSet<WaiterId>>,
    closed: bool,
}

impl Inner {
    fn wake_room(&self, room: RoomNid) {
        for (_, id) in self.by_room.range((room, WaiterId::MIN)..=(room, WaiterId::MAX)) {
            self.wake(*id);
        }
    }

    fn wake_user(&self, user: &UserId) {
        self.by_user.get(user).into_iter().flatten().for_each(|id| self.wake(*id));
    }

    fn wake(&self, id: WaiterId) {
        if let Some(waiter) = self.waiting.get(&id) {
            waiter.notify_one();
        }
    }
}

/// One waiting poll: holds a place in the hub until it is dropped.
pub struct Waiter {
    inner: Arc<Mutex<Inner>>,
    id: WaiterId,
    user: OwnedUserId,
    rooms: Arc<[RoomNid]>,
    notify: Arc<Notify>,
}

/// Whether something may have happened after a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    None,
    /// Something did, or it was before this process started and the store must be asked.
    Possible,
}

impl Waiters {
    /// Follows a store's log from now on.
    pub fn follow(store: &Store) -> Self {
        let started_at = store.durable_position();
        let inner = Arc::new(Mutex::new(Inner { position: started_at, ..Inner::default() }));
        let followed = inner.clone();
        store.observe(move |durable, topics| {
            let mut inner = followed.lock();
            // The maps first, then the position, all under one lock: who reads the position finds in the maps whatever led to it.
            for topic in topics {
                match topic {
                    Topic::Room(room) => {
                        inner.rooms.insert(*room, durable);
                        inner.last_room_change = inner.last_room_change.max(durable);
                        inner.wake_room(*room);
                    }
                    Topic::User(user) => {
                        inner.users.insert(user.clone(), durable);
                        inner.wake_user(user);
                    }
                    Topic::Destination(_) => {}
                }
            }
            inner.position = inner.position.max(durable);
        });
        Self { inner, started_at }
    }

    /// The durable position up to which every change has been noted here: the bound of what a sync may read.
    pub fn position(&self) -> Position {
        self.inner.lock().position
    }

    /// Which of these rooms may have changed after a position.
    pub fn active_rooms(&self, rooms: impl IntoIterator<Item = RoomNid>, after: Position) -> BTreeSet<RoomNid> {
        let inner = self.inner.lock();
        if after >= self.started_at.max(inner.last_room_change) {
            return BTreeSet::new();
        }
        let may_be = |room: &RoomNid| inner.rooms.get(room).map_or(after < self.started_at, |changed| *changed > after);
        rooms.into_iter().filter(may_be).collect()
    }

    /// Whether something may have happened to a user alone after a position.
    pub fn user_activity(&self, user: &UserId, after: Position) -> Activity {
        let changed = self.inner.lock().users.get(user).copied();
        if changed.map_or(after < self.started_at, |changed| changed > after) {
            Activity::Possible
        } else {
            Activity::None
        }
    }

    /// Begins to wait for a user and for rooms. What happens from now on wakes the waiter, also before it begins to sleep.
    pub fn register(&self, user: &UserId, rooms: Arc<[RoomNid]>) -> Waiter {
        let notify = Arc::new(Notify::new());
        let mut inner = self.inner.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        inner.waiting.insert(id, notify.clone());
        inner.by_user.entry(user.to_owned()).or_default().insert(id);
        inner.by_room.extend(rooms.iter().map(|room| (*room, id)));
        if inner.closed {
            notify.notify_one();
        }
        Waiter { inner: self.inner.clone(), id, user: user.to_owned(), rooms, notify }
    }

    /// Wakes who follows a room, for something that is not in the log.
    pub fn wake_room(&self, room: RoomNid) {
        self.inner.lock().wake_room(room);
    }

    /// Wakes a user's polls, for something that is not in the log.
    pub fn wake_user(&self, user: &UserId) {
        self.inner.lock().wake_user(user);
    }

    /// Ends every wait, present and future: the server stops.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.waiting.values().for_each(|waiter| waiter.notify_one());
    }

    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// How many polls wait now.
    pub fn waiting(&self) -> usize {
        self.inner.lock().waiting.len()
    }
}

impl Waiter {
    /// Returns once something has happened since the waiter was made, or since the last return.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut inner = self.inner.lock();
        inner.waiting.remove(&self.id);
        for room in self.rooms.iter() {
            inner.by_room.remove(&(*room, self.id));
        }
        if let Some(ids) = inner.by_user.get_mut(&self.user) {
            ids.remove(&self.id);
            if ids.is_empty() {
                inner.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chappe_store::{Batch, tables::accounts::FILTERS};
    use ruma::user_id;
    use tokio::time::timeout;

    use super::*;

    async fn touch(store: &Store, topic: Topic) -> Position {
        let mut batch = Batch::new();
        let alice = user_id!("@alice:example.org").to_owned();
        batch.put(&FILTERS, &(alice, "x".to_owned()), &"{}".to_owned());
        batch.next_position();
        batch.wake(topic);
        store.commit(batch).await.unwrap();
        store.durable_position()
    }

    #[tokio::test]
    async fn a_waiter_is_woken_by_what_it_waits_for_and_by_nothing_else() {
        let store = Store::in_memory();
        let waiters = Waiters::follow(&store);
        let waiter = waiters.register(user_id!("@alice:example.org"), [RoomNid(1), RoomNid(3)].into());
        touch(&store, Topic::Room(RoomNid(2))).await;
        touch(&store, Topic::User(user_id!("@bob:example.org").to_owned())).await;
        assert!(timeout(Duration::from_millis(20), waiter.woken()).await.is_err());
        touch(&store, Topic::Room(RoomNid(3))).await;
        timeout(Duration::from_secs(5), waiter.woken()).await.unwrap();
        waiters.wake_user(user_id!("@alice:example.org"));
        timeout(Duration::from_secs(5), waiter.woken()).await.unwrap();
        drop(waiter);
        let inner = waiters.inner.lock();
        assert!(inner.waiting.is_empty() && inner.by_room.is_empty() && inner.by_user.is_empty());
    }

    #[tokio::test]
    async fn activity_is_known_by_the_time_its_position_is() {
        let store = Store::in_memory();
        let before = touch(&store, Topic::Room(RoomNid(1))).await;
        let waiters = Waiters::follow(&store);
        let after = touch(&store, Topic::Room(RoomNid(2))).await;
        assert_eq!(waiters.position(), after);
        let rooms = || [RoomNid(1), RoomNid(2), RoomNid(3)];
        assert_eq!(waiters.active_rooms(rooms(), before), BTreeSet::from([RoomNid(2)]));
        assert!(waiters.active_rooms(rooms(), after).is_empty());
        // Before the start anything may have happened to the rooms that are not noted.
        assert_eq!(waiters.active_rooms(rooms(), Position::ZERO).len(), 3);
    }
}
