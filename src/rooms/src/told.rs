//! Events told to another server in large numbers: a room's state, an auth chain. Only their numbers are held; the events are read as they
//! are sent, a piece at a time, and past the cache, which is for what is read again.

use std::vec;

use chappe_store::{
    EventNid, StoreError,
    tables::events::{EVENT_JSON, EVENTS},
};
use ruma::OwnedEventId;
use serde_json::value::RawValue as RawJsonValue;

use crate::{RoomError, Rooms, remote::RawEvents};

/// Events to be told. An event that has gone from the store is left out.
#[derive(Clone)]
pub struct ToldEvents {
    rooms: Rooms,
    events: vec::IntoIter<EventNid>,
}

impl Rooms {
    pub(crate) fn tell(&self, events: impl IntoIterator<Item = EventNid>) -> ToldEvents {
        ToldEvents { rooms: self.clone(), events: events.into_iter().collect::<Vec<_>>().into_iter() }
    }
}

impl ToldEvents {
    /// How many are left.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.events.len() == 0
    }

    /// The next event in federation format.
    pub fn next_text(&mut self) -> Result<Option<String>, StoreError> {
        for nid in self.events.by_ref() {
            if let Some(text) = self.rooms.store.get(&EVENT_JSON, &nid)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// The next event's id.
    pub fn next_id(&mut self) -> Result<Option<OwnedEventId>, StoreError> {
        for nid in self.events.by_ref() {
            if let Some(record) = self.rooms.store.get(&EVENTS, &nid)? {
                return Ok(Some(record.event_id));
            }
        }
        Ok(None)
    }

    /// All of them at once, for those who know that they are few.
    pub fn read_all(mut self) -> Result<RawEvents, RoomError> {
        let mut events = Vec::with_capacity(self.len());
        while let Some(text) = self.next_text()? {
            events.push(RawJsonValue::from_string(text).map_err(|error| RoomError::broken(error.to_string()))?);
        }
        Ok(events)
    }

    /// All their ids at once, for those who know that they are few.
    pub fn read_all_ids(mut self) -> Result<Vec<OwnedEventId>, StoreError> {
        std::iter::from_fn(|| self.next_id().transpose()).collect()
    }
}

impl std::fmt::Debug for ToldEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} events to be told", self.len())
    }
}
