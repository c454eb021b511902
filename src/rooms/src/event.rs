//! Events as stored here, and the cache of them.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use chappe_protocol::pdu::Pdu;
use chappe_store::{
    EventNid, Order, StoreError,
    tables::events::{EVENT_JSON, EVENT_NIDS, EVENT_ORDERS, EVENTS, EventRecord, EventStatus},
};
use lru::LruCache;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{EventId, OwnedEventId};

use crate::Rooms;

/// An event and how it stands with this server.
#[derive(Debug, Clone)]
pub struct Event {
    pub nid: EventNid,
    pub record: EventRecord,
    pub pdu: Arc<Pdu>,
}

impl Event {
    /// Whether it is part of the room as clients see it.
    pub fn is_accepted(&self) -> bool {
        self.record.status == EventStatus::Accepted
    }

    pub fn is_rejected(&self) -> bool {
        self.record.status == EventStatus::Rejected
    }
}

/// Parsed events by number.
pub(crate) struct EventCache {
    events: Mutex<LruCache<EventNid, Arc<Event>>>,
    /// Counts invalidations, so that what was read before one is not cached after it.
    generation: AtomicU64,
    /// The numbers of events, which never change.
    nids: Cache<OwnedEventId, EventNid>,
}

impl EventCache {
    pub(crate) fn new(capacity: usize) -> Self {
        let nids = Cache::new(capacity);
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self { events: Mutex::new(LruCache::new(capacity)), generation: AtomicU64::new(0), nids }
    }

    fn get(&self, nid: EventNid) -> Option<Arc<Event>> {
        self.events.lock().get(&nid).cloned()
    }

    fn insert_if_current(&self, event: &Arc<Event>, generation: u64) {
        let mut events = self.events.lock();
        if self.generation.load(Ordering::Acquire) == generation {
            events.put(event.nid, event.clone());
        }
    }

    /// To be called with what a batch wrote, after it was enqueued.
    pub(crate) fn replace(&self, written: impl IntoIterator<Item = Arc<Event>>) {
        let mut events = self.events.lock();
        self.generation.fetch_add(1, Ordering::Release);
        for event in written {
            self.nids.insert(event.record.event_id.clone(), event.nid);
            events.put(event.nid, event);
        }
    }
}

impl Rooms {
    pub fn get_event_nid(&self, event_id: &EventId) -> Result<Option<EventNid>, StoreError> {
        if let Some(nid) = self.cache.nids.get(event_id) {
            return Ok(Some(nid));
        }
        let event_id = event_id.to_owned();
        let Some(nid) = self.store.get(&EVENT_NIDS, &event_id)? else { return Ok(None) };
        self.cache.nids.insert(event_id, nid);
        Ok(Some(nid))
    }

    /// An event by id, whatever its status.
    pub fn get_event(&self, event_id: &EventId) -> Result<Option<Arc<Event>>, StoreError> {
        let Some(nid) = self.get_event_nid(event_id)? else { return Ok(None) };
        self.get_event_by_nid(nid)
    }

    pub fn get_event_by_nid(&self, nid: EventNid) -> Result<Option<Arc<Event>>, StoreError> {
        if let Some(event) = self.cache.get(nid) {
            return Ok(Some(event));
        }
        let generation = self.cache.generation.load(Ordering::Acquire);
        let Some(record) = self.store.get(&EVENTS, &nid)? else { return Ok(None) };
        let Some(json) = self.store.get(&EVENT_JSON, &nid)? else { return Ok(None) };
        let room_id = self.store.interner().get_room_id(&self.store, record.room)?;
        let undecodable =
            |what: String| StoreError::Decode { table: EVENT_JSON.name, cause: chappe_store::DecodeError::new(what) };
        let room_id = room_id.ok_or_else(|| undecodable(format!("event {nid} is of an unknown room")))?;
        let pdu = Pdu::from_stored(&record.event_id, &json, record.status == EventStatus::Rejected, &room_id)
            .map_err(|error| undecodable(format!("event {}: {error}", record.event_id)))?;
        let event = Arc::new(Event { nid, record, pdu: Arc::new(pdu) });
        self.cache.insert_if_current(&event, generation);
        Ok(Some(event))
    }

    /// The event's order among those of its depth, if it is in a timeline.
    pub fn get_event_order(&self, nid: EventNid) -> Result<Option<Order>, StoreError> {
        self.store.get(&EVENT_ORDERS, &nid)
    }
}
