//! Events as stored here, and the cache of them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use chappe_protocol::pdu::Pdu;
use chappe_store::{
    EventNid, Order, StoreError,
    tables::events::{EVENT_JSON, EVENT_NIDS, EVENT_ORDERS, EVENTS, EventRecord, EventStatus},
};
use foldhash::fast::RandomState;
use quick_cache::{
    OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle, GuardResult},
};
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

/// What an event and its place in the cache take beside its text, in bytes; roughly.
const BYTES_PER_EVENT: usize = 800;
/// What each of its prev events takes, and each of its auth events, whose ids are shared.
const BYTES_PER_PREV_EVENT: usize = 80;
const BYTES_PER_AUTH_EVENT: usize = 24;

/// How many events are read from the store at a time.
const READ_AT_ONCE_MAX: usize = 200;

#[derive(Clone)]
struct WeightInBytes;

impl Weighter<EventNid, Arc<Event>> for WeightInBytes {
    fn weight(&self, _: &EventNid, event: &Arc<Event>) -> u64 {
        let pdu = &event.pdu;
        let references = pdu.prev_events.len() * BYTES_PER_PREV_EVENT + pdu.auth_events.len() * BYTES_PER_AUTH_EVENT;
        let bytes = BYTES_PER_EVENT + references + pdu.json().len();
        bytes.try_into().unwrap_or(u64::MAX)
    }
}

/// Parsed events by number. Nobody outside chooses the numbers, so that a fast hash will do.
pub(crate) struct EventCache {
    events: Cache<EventNid, Arc<Event>, WeightInBytes, RandomState>,
    /// The numbers of events, which never change.
    nids: Cache<OwnedEventId, EventNid>,
}

impl EventCache {
    pub(crate) fn new(capacity_bytes: usize) -> Self {
        let expected = capacity_bytes / (2 * BYTES_PER_EVENT);
        let bytes = capacity_bytes.try_into().unwrap_or(u64::MAX);
        // What just came is read soon, however much was read before: half is for it. And as many keys are remembered as there can be
        // events: who reads many rooms a second time has them kept from then on.
        let options = OptionsBuilder::new()
            .weight_capacity(bytes)
            .estimated_items_capacity(expected)
            .hot_allocation(0.5)
            .ghost_allocation(1.0)
            .build()
            .expect("capacities are given");
        let (hasher, lifecycle) = (RandomState::default(), DefaultLifecycle::default());
        Self { events: Cache::with_options(options, WeightInBytes, hasher, lifecycle), nids: Cache::new(expected) }
    }

    /// To be called with what a batch wrote, after it was enqueued. It takes the place also of what is just being read from before it.
    pub(crate) fn replace(&self, written: impl IntoIterator<Item = Arc<Event>>) {
        for event in written {
            self.nids.insert(event.record.event_id.clone(), event.nid);
            self.events.insert(event.nid, event);
        }
    }
}

/// Rows that name events, with their events, which are read several at a time. A row whose event is not here is passed over.
pub struct WithEvents<'a, R, T> {
    rooms: &'a Rooms,
    rows: R,
    at_once: usize,
    read: VecDeque<(T, Arc<Event>)>,
}

impl<R: Iterator<Item = Result<(T, EventNid), StoreError>>, T> WithEvents<'_, R, T> {
    fn read_on(&mut self) -> Result<(), StoreError> {
        while self.read.is_empty() {
            let rows = self.rows.by_ref().take(self.at_once).collect::<Result<Vec<_>, _>>()?;
            if rows.is_empty() {
                break;
            }
            let nids: Vec<_> = rows.iter().map(|(_, nid)| *nid).collect();
            let events = self.rooms.get_events_by_nid(&nids)?;
            self.read.extend(rows.into_iter().zip(events).filter_map(|((row, _), event)| Some((row, event?))));
        }
        Ok(())
    }
}

impl<R: Iterator<Item = Result<(T, EventNid), StoreError>>, T> Iterator for WithEvents<'_, R, T> {
    type Item = Result<(T, Arc<Event>), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.read_on() {
            Ok(()) => self.read.pop_front().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }
}

impl Rooms {
    /// Rows with the events that they name. `wanted` is how many of them are likely to be looked at.
    pub fn with_events<R, T>(&self, rows: R, wanted: usize) -> WithEvents<'_, R, T>
    where
        R: Iterator<Item = Result<(T, EventNid), StoreError>>,
    {
        WithEvents { rooms: self, rows, at_once: wanted.clamp(1, READ_AT_ONCE_MAX), read: VecDeque::new() }
    }

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
        // Whoever else wants the event waits while it is read.
        let place = match self.cache.events.get_value_or_guard(&nid, None) {
            GuardResult::Value(event) => return Ok(Some(event)),
            GuardResult::Guard(place) => Some(place),
            GuardResult::Timeout => None,
        };
        let Some(event) = self.read_event(nid)? else { return Ok(None) };
        // Refused where a newer one was put meanwhile.
        let _refused = place.map(|place| place.insert(event.clone()));
        Ok(Some(event))
    }

    /// Several events, in the order in which they are asked for; those that are not in memory are read many at a time.
    pub fn get_events_by_nid(&self, nids: &[EventNid]) -> Result<Vec<Option<Arc<Event>>>, StoreError> {
        let mut events = Vec::with_capacity(nids.len());
        for nids in nids.chunks(READ_AT_ONCE_MAX) {
            self.read_events(nids, &mut events)?;
        }
        Ok(events)
    }

    fn read_events(&self, nids: &[EventNid], events: &mut Vec<Option<Arc<Event>>>) -> Result<(), StoreError> {
        let mut missing = Vec::new();
        let mut places = Vec::new();
        for nid in nids {
            // Nobody is waited for while places are held.
            let (event, place) = match self.cache.events.get_value_or_guard(nid, Some(Duration::ZERO)) {
                GuardResult::Value(event) => (Some(event), None),
                GuardResult::Guard(place) => (None, Some(place)),
                GuardResult::Timeout => (None, None),
            };
            if event.is_none() {
                missing.push(*nid);
                places.push((events.len(), place));
            }
            events.push(event);
        }
        if missing.is_empty() {
            return Ok(());
        }
        let rows = self.store.get_many(&EVENTS, &missing)?.into_iter().zip(self.store.get_many(&EVENT_JSON, &missing)?);
        for (((at, place), nid), row) in places.into_iter().zip(missing).zip(rows) {
            let (Some(record), Some(json)) = row else { continue };
            let event = self.parse_event(nid, record, &json)?;
            // Refused where a newer one was put meanwhile.
            let _refused = place.map(|place| place.insert(event.clone()));
            if let Some(slot) = events.get_mut(at) {
                *slot = Some(event);
            }
        }
        Ok(())
    }

    fn read_event(&self, nid: EventNid) -> Result<Option<Arc<Event>>, StoreError> {
        let Some(record) = self.store.get(&EVENTS, &nid)? else { return Ok(None) };
        let Some(json) = self.store.get(&EVENT_JSON, &nid)? else { return Ok(None) };
        self.parse_event(nid, record, &json).map(Some)
    }

    fn parse_event(&self, nid: EventNid, record: EventRecord, json: &str) -> Result<Arc<Event>, StoreError> {
        let room_id = self.store.interner().get_room_id(&self.store, record.room)?;
        let undecodable =
            |what: String| StoreError::Decode { table: EVENT_JSON.name, cause: chappe_store::DecodeError::new(what) };
        let room_id = room_id.ok_or_else(|| undecodable(format!("event {nid} is of an unknown room")))?;
        let is_rejected = record.status == EventStatus::Rejected;
        let mut pdu = Pdu::from_stored(record.event_id.clone(), json, is_rejected, room_id)
            .map_err(|error| undecodable(format!("event {}: {error}", record.event_id)))?;
        let auth_events = record.auth_events.iter().filter_map(|nid| self.cache.events.peek(nid));
        pdu.share_auth_ids(auth_events.map(|event| event.pdu.event_id.clone()));
        Ok(Arc::new(Event { nid, record, pdu: Arc::new(pdu) }))
    }

    /// The event's order among those of its depth, if it is in a timeline.
    pub fn get_event_order(&self, nid: EventNid) -> Result<Option<Order>, StoreError> {
        self.store.get(&EVENT_ORDERS, &nid)
    }
}
