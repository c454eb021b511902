//! Events whose place in the graph is not looked at: auth events, and those of states that other servers tell.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chappe_protocol::pdu::Pdu;
use chappe_store::tables::events::EventStatus;
use ruma::{EventId, OwnedEventId, ServerName, events::TimelineEventType};
use serde_json::value::RawValue as RawJsonValue;

use super::SINGLE_FETCHES_MAX;
use crate::{
    Room, RoomError, Rooms,
    staging::{Decided, Placement, Relay, Staging},
};

impl Rooms {
    /// Makes sure that an event's auth events are known, as outliers if need be.
    pub(super) async fn fetch_missing_auth_events(
        &self,
        origin: &ServerName,
        room: &Room,
        pdu: &Pdu,
    ) -> Result<(), RoomError> {
        let missing = self.unknown_of(&pdu.auth_events)?;
        if missing.is_empty() {
            return Ok(());
        }
        match self.remote.fetch_event_auth(origin, &room.id, &pdu.event_id).await {
            Ok(events) => self.store_outliers(room, events).await?,
            Err(error) => tracing::info!(%error, event.id = %pdu.event_id, server = %origin, "auth chain not had"),
        }
        self.fetch_single_events(origin, room, missing).await?;
        match self.unknown_of(&pdu.auth_events)?.first() {
            None => Ok(()),
            Some(unknown) => Err(RoomError::Invalid(format!("Auth event {unknown} could not be had"))),
        }
    }

    pub(crate) fn unknown_of(&self, ids: &[OwnedEventId]) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut unknown = Vec::new();
        for id in ids {
            if !self.is_settled(id)? {
                unknown.push(id.clone());
            }
        }
        Ok(unknown)
    }

    /// Whether an event is known with its auth chain: not merely by an out-of-band invite.
    fn is_settled(&self, id: &EventId) -> Result<bool, RoomError> {
        match self.get_event(id)? {
            Some(event) => Ok(!event.pdu.is_state() || self.chains.contains(event.nid)?),
            None => Ok(false),
        }
    }

    /// Fetches events, and the auth events they turn out to need, one by one.
    pub(crate) async fn fetch_single_events(
        &self,
        origin: &ServerName,
        room: &Room,
        mut wanted: Vec<OwnedEventId>,
    ) -> Result<(), RoomError> {
        let mut fetched = Vec::new();
        let mut asked = HashSet::new();
        while let Some(id) = wanted.pop() {
            if asked.len() >= SINGLE_FETCHES_MAX || self.is_settled(&id)? || !asked.insert(id.clone()) {
                continue;
            }
            match self.remote.fetch_event(origin, &id).await {
                Ok(raw) => match self.check_pdu(room, &raw).await {
                    Ok(pdu) if pdu.event_id == id => {
                        wanted.extend(pdu.auth_events.iter().cloned());
                        fetched.push(pdu);
                    }
                    Ok(_) => tracing::info!(event.id = %id, server = %origin, "asked for one event, was given another"),
                    Err(error) => tracing::info!(%error, event.id = %id, server = %origin, "fetched event is bad"),
                },
                Err(error) => tracing::info!(%error, event.id = %id, server = %origin, "event not had"),
            }
        }
        self.store_checked_outliers(room, fetched).await
    }

    /// Stores events whose place in the graph is not looked at, those of them that pass their checks.
    pub(crate) async fn store_outliers(&self, room: &Room, events: Vec<Box<RawJsonValue>>) -> Result<(), RoomError> {
        let mut checked = Vec::new();
        for raw in events {
            match self.check_pdu(room, &raw).await {
                Ok(pdu) => checked.push(pdu),
                Err(error) => tracing::info!(%error, room.id = %room.id, "event of an auth chain or state is bad"),
            }
        }
        self.store_checked_outliers(room, checked).await
    }

    pub(crate) async fn store_checked_outliers(&self, room: &Room, events: Vec<Arc<Pdu>>) -> Result<(), RoomError> {
        if events.is_empty() {
            return Ok(());
        }
        let _writing = self.locks.write(&room.id).await;
        let mut staging = Staging::begin(self, self.require_room(&room.id)?)?;
        staging.put_outliers(events)?;
        let ticket = staging.enqueue()?;
        drop(_writing);
        ticket.durable().await?;
        Ok(())
    }
}

impl Staging {
    /// Stores checked events as outliers, each after its auth events. Those whose auth events are not to be had are left out.
    pub(crate) fn put_outliers(&mut self, events: Vec<Arc<Pdu>>) -> Result<(), RoomError> {
        let mut waiting: HashMap<OwnedEventId, Arc<Pdu>> = HashMap::new();
        for pdu in events {
            if self.get_settled(&pdu.event_id)?.is_none() {
                waiting.insert(pdu.event_id.clone(), pdu);
            }
        }
        // Auth events first: repeatedly follow an event's waiting auth events down, and store on the way back.
        let mut roots: Vec<OwnedEventId> = waiting.keys().cloned().collect();
        // The create event first: every event needs it, and from version 12 none names it.
        roots.sort_by_key(|id| waiting.get(id).is_some_and(|pdu| pdu.kind == TimelineEventType::RoomCreate));
        let mut open: HashSet<OwnedEventId> = HashSet::new();
        while let Some(id) = roots.pop() {
            let Some(pdu) = waiting.get(&id).cloned() else { continue };
            let first: Vec<_> = pdu
                .auth_events
                .iter()
                .filter(|auth| waiting.contains_key(*auth) && !open.contains(*auth))
                .cloned()
                .collect();
            if !first.is_empty() && open.insert(id.clone()) {
                roots.push(id);
                roots.extend(first);
                continue;
            }
            waiting.remove(&id);
            self.put_outlier(pdu)?;
        }
        Ok(())
    }

    fn put_outlier(&mut self, pdu: Arc<Pdu>) -> Result<(), RoomError> {
        for id in &pdu.auth_events {
            if self.get_settled(id)?.is_none() {
                tracing::debug!(event.id = %pdu.event_id, auth_event.id = %id, "outlier left out: auth event missing");
                return Ok(());
            }
        }
        let (status, reason) = match self.check_against_auth_events(&pdu) {
            Ok(()) => (EventStatus::Outlier, None),
            Err(rejection) => (EventStatus::Rejected, Some(rejection.to_string())),
        };
        self.put_event(Decided {
            pdu,
            status,
            reason,
            state_before: None,
            placement: Placement::Hidden,
            relay: Relay::Nobody,
            sent_by: None,
            is_new: false,
        })?;
        Ok(())
    }
}
