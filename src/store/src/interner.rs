//! Interning: identifiers become small numbers for use in keys, and come back.
//!
//! Rooms and state keys are interned by a batch of their own that precedes, in the log, any batch that uses the number. Event
//! numbers are only handed out here: an event's batch writes its own rows.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, RoomId, events::StateEventType};

use crate::{
    batch::Batch,
    engine::{Direction, Engine},
    ids::{EventNid, RoomNid, StateKeyNid},
    key::{Key, KeyReader},
    log::{CommitError, OpenError},
    store::{Store, StoreError},
    table::{Table, prefix_end},
    tables::interned,
};

/// How many rooms, and how many state keys, are kept in memory each way.
const CACHED_ROOMS: usize = 20_000;
const CACHED_STATE_KEYS: usize = 50_000;

pub struct Interner {
    /// Held while a new identifier is given a number, so that it gets one only.
    allocate: Mutex<()>,
    next_room: AtomicU64,
    next_state_key: AtomicU64,
    next_event: AtomicU64,
    // What has a number keeps it, so nothing here is ever out of date.
    room_nids: Cache<OwnedRoomId, RoomNid>,
    room_ids: Cache<RoomNid, OwnedRoomId>,
    state_key_nids: Cache<String, StateKeyNid>,
    state_keys: Cache<StateKeyNid, Arc<(StateEventType, String)>>,
}

impl Interner {
    pub(crate) fn load(engine: &dyn Engine) -> Result<Self, OpenError> {
        Ok(Self {
            allocate: Mutex::new(()),
            next_room: AtomicU64::new(next_after_last(engine, &interned::ROOM_IDS)?),
            next_state_key: AtomicU64::new(next_after_last(engine, &interned::STATE_KEYS)?),
            next_event: AtomicU64::new(next_after_last(engine, &crate::tables::events::EVENTS)?),
            room_nids: Cache::new(CACHED_ROOMS),
            room_ids: Cache::new(CACHED_ROOMS),
            state_key_nids: Cache::new(CACHED_STATE_KEYS),
            state_keys: Cache::new(CACHED_STATE_KEYS),
        })
    }

    /// A number for a new event.
    pub fn next_event(&self) -> EventNid {
        EventNid(self.next_event.fetch_add(1, Ordering::Relaxed))
    }

    /// The room's number; given one now if it has none.
    pub fn intern_room(&self, store: &Store, room_id: &RoomId) -> Result<RoomNid, CommitError> {
        if let Some(found) = self.get_room(store, room_id)? {
            return Ok(found);
        }
        let (key, text) = (room_id.to_owned(), room_id.to_string());
        self.intern(store, &interned::ROOM_NIDS, &interned::ROOM_IDS, &self.next_room, &key, &text, RoomNid)
    }

    /// The number of a pair of event type and state key; given one now if it has none.
    pub fn intern_state_key(
        &self,
        store: &Store,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<StateKeyNid, CommitError> {
        if let Some(found) = self.get_state_key(store, event_type, state_key)? {
            return Ok(found);
        }
        let text = interned::state_key_text(event_type, state_key);
        let key = interned::state_key_hash(&text);
        let (forward, reverse) = (&interned::STATE_KEY_NIDS, &interned::STATE_KEYS);
        self.intern(store, forward, reverse, &self.next_state_key, &key, &text, StateKeyNid)
    }

    fn intern<K: Key, N: Key + crate::record::Value + Copy>(
        &self,
        store: &Store,
        forward: &Table<K, N>,
        reverse: &Table<N, String>,
        next: &AtomicU64,
        key: &K,
        text: &String,
        nid: fn(u64) -> N,
    ) -> Result<N, CommitError> {
        let _allocating = self.allocate.lock();
        if let Some(found) = store.get(forward, key)? {
            return Ok(found);
        }
        let fresh = nid(next.load(Ordering::Relaxed));
        let mut batch = Batch::new();
        batch.put(forward, key, &fresh);
        batch.put(reverse, &fresh, text);
        // Whoever uses the number waits for a later batch, or a barrier: this one is then durable too.
        drop(store.enqueue(batch)?);
        next.fetch_add(1, Ordering::Relaxed);
        Ok(fresh)
    }

    /// The room's number, if it is known here.
    pub fn get_room(&self, store: &Store, room_id: &RoomId) -> Result<Option<RoomNid>, StoreError> {
        if let Some(nid) = self.room_nids.get(room_id) {
            return Ok(Some(nid));
        }
        let key = room_id.to_owned();
        let Some(nid) = store.get(&interned::ROOM_NIDS, &key)? else { return Ok(None) };
        self.room_nids.insert(key, nid);
        Ok(Some(nid))
    }

    pub fn get_room_id(&self, store: &Store, room: RoomNid) -> Result<Option<OwnedRoomId>, StoreError> {
        if let Some(id) = self.room_ids.get(&room) {
            return Ok(Some(id));
        }
        let id = store.get(&interned::ROOM_IDS, &room)?.and_then(|text| OwnedRoomId::try_from(text).ok());
        if let Some(id) = &id {
            self.room_ids.insert(room, id.clone());
        }
        Ok(id)
    }

    /// The number of a pair of event type and state key, if any event here ever had it.
    pub fn get_state_key(
        &self,
        store: &Store,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<StateKeyNid>, StoreError> {
        let text = interned::state_key_text(event_type, state_key);
        if let Some(nid) = self.state_key_nids.get(&text) {
            return Ok(Some(nid));
        }
        let Some(nid) = store.get(&interned::STATE_KEY_NIDS, &interned::state_key_hash(&text))? else {
            return Ok(None);
        };
        self.state_key_nids.insert(text, nid);
        Ok(Some(nid))
    }

    pub fn get_state_key_parts(
        &self,
        store: &Store,
        nid: StateKeyNid,
    ) -> Result<Option<Arc<(StateEventType, String)>>, StoreError> {
        if let Some(parts) = self.state_keys.get(&nid) {
            return Ok(Some(parts));
        }
        let Some(text) = store.get(&interned::STATE_KEYS, &nid)? else { return Ok(None) };
        let parts = Arc::new(interned::state_key_parts(&text));
        self.state_keys.insert(nid, parts.clone());
        Ok(Some(parts))
    }
}

fn next_after_last<K: Key, V: crate::record::Value>(
    engine: &dyn Engine,
    table: &Table<K, V>,
) -> Result<u64, OpenError> {
    let start = vec![table.id];
    let end = prefix_end(&start);
    let Some(last) = engine.scan(&start, &end, Direction::Reverse).next() else { return Ok(1) };
    let (key, _) = last?;
    let last = u64::decode(&mut KeyReader::new(key.get(1..).unwrap_or_default()))
        .map_err(|cause| StoreError::Decode { table: table.name, cause })?;
    Ok(last + 1)
}
