//! The event closest to a point in time: of what is known here and, where that has a gap, of what other servers know.
//!
//! Spec: Client-Server API, `GET /rooms/{roomId}/timestamp_to_event`; Server-Server API, `GET /timestamp_to_event/{roomId}`.

use std::sync::Arc;

use chappe_store::{
    Direction, RoomNid, StoreError,
    tables::events::{NEXT_EVENTS, SENT_TIMES},
};
use ruma::{EventId, MilliSecondsSinceUnixEpoch, RoomId, ServerName, UserId, api::Direction as Paging};

use crate::{
    Event, Room, RoomError, Rooms,
    staging::{Placement, Relay},
};

/// How many events that the asker may not see are passed over.
const EVENTS_LOOKED_AT_MAX: usize = 1_000;
/// How many servers are asked for a closer event.
const SERVERS_MAX: usize = 3;

impl Rooms {
    /// The first event at or after a time (or the last at or before it) that the user may see, from other servers if one of them
    /// knows a closer one.
    pub async fn get_visible_event_by_time(
        &self,
        room: &Room,
        user: &UserId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Paging,
    ) -> Result<Option<Arc<Event>>, RoomError> {
        let mut eyes = self.eyes_of(room.nid, user)?;
        let local = self.find_by_time(room.nid, at, direction, |event| eyes.sees(event))?;
        let may_ask = self.is_joined(room.nid, user)? && !self.get_backward_extremities(room.nid)?.is_empty();
        let is_safe = match &local {
            Some(event) => !self.is_next_to_gap(event, direction)?,
            None => false,
        };
        if is_safe || !may_ask {
            return Ok(local);
        }
        match self.fetch_event_by_time(room, at, direction, local.as_deref()).await? {
            Some(remote) if self.is_visible_to_user(&remote, user)? => Ok(Some(remote)),
            _ => Ok(local),
        }
    }

    /// The same for a server in the room, of what is known here.
    pub fn get_event_by_time_for_server(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Paging,
    ) -> Result<Option<Arc<Event>>, RoomError> {
        let room = self.require_shared_room(origin, room_id)?;
        Ok(self.find_by_time(room.nid, at, direction, |event| self.is_visible_to_server(event, origin))?)
    }

    fn find_by_time(
        &self,
        room: RoomNid,
        at: MilliSecondsSinceUnixEpoch,
        direction: Paging,
        mut is_seen: impl FnMut(&Event) -> Result<bool, StoreError>,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        let at: u64 = at.get().into();
        let rows: Box<dyn Iterator<Item = _>> = match direction {
            Paging::Forward => {
                Box::new(self.store.scan_range(&SENT_TIMES, &(room, at), &(room, u64::MAX), Direction::Forward))
            }
            Paging::Backward => Box::new(self.store.scan_range(
                &SENT_TIMES,
                &(room,),
                &(room, at.saturating_add(1)),
                Direction::Reverse,
            )),
        };
        for row in rows.take(EVENTS_LOOKED_AT_MAX) {
            let (_, nid) = row?;
            if let Some(event) = self.get_event_by_nid(nid)?
                && is_seen(&event)?
            {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Whether events are missing here between this one and what was asked for: before it if it is the first after a time, after it if
    /// it is the last before one.
    fn is_next_to_gap(&self, event: &Event, direction: Paging) -> Result<bool, StoreError> {
        if direction == Paging::Forward {
            for prev in &event.pdu.prev_events {
                if !self.is_in_order(prev)? {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        let room = self.get_room_by_nid(event.record.room)?;
        if room.is_some_and(|room| room.record.forward_extremities.iter().any(|(nid, ..)| *nid == event.nid)) {
            return Ok(false);
        }
        for row in self.store.scan(&NEXT_EVENTS, &(event.pdu.event_id.clone(),), Direction::Forward) {
            let ((_, next), ()) = row?;
            if self.get_event_order(next)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_in_order(&self, event_id: &EventId) -> Result<bool, StoreError> {
        match self.get_event_nid(event_id)? {
            Some(nid) => Ok(self.get_event_order(nid)?.is_some()),
            None => Ok(false),
        }
    }

    /// Asks other servers for an event closer than `local`, and takes it in.
    async fn fetch_event_by_time(
        &self,
        room: &Room,
        at: MilliSecondsSinceUnixEpoch,
        direction: Paging,
        local: Option<&Event>,
    ) -> Result<Option<Arc<Event>>, RoomError> {
        let is_closer = |sent_at: MilliSecondsSinceUnixEpoch| match direction {
            Paging::Forward => sent_at >= at && local.is_none_or(|local| sent_at < local.pdu.origin_server_ts),
            Paging::Backward => sent_at <= at && local.is_none_or(|local| sent_at > local.pdu.origin_server_ts),
        };
        for server in self.servers_with_history(room)?.into_iter().take(SERVERS_MAX) {
            let (event_id, sent_at) = match self.remote.fetch_event_by_time(&server, &room.id, at, direction).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::debug!(%error, room.id = %room.id, server = %server, "no event of that time from this server");
                    continue;
                }
            };
            if !is_closer(sent_at) {
                continue;
            }
            match self.take_in_single(&server, room, &event_id).await {
                Ok(event) if event.is_accepted() && is_closer(event.pdu.origin_server_ts) => return Ok(Some(event)),
                Ok(_) => {}
                Err(error) => {
                    tracing::info!(%error, event.id = %event_id, server = %server, "event of a time could not be had")
                }
            }
        }
        Ok(None)
    }

    /// Fetches one event out of the room's history and gives it its place.
    async fn take_in_single(
        &self,
        server: &ServerName,
        room: &Room,
        event_id: &EventId,
    ) -> Result<Arc<Event>, RoomError> {
        let _queue = self.locks.ingest(&room.id).await;
        let known = self.get_event(event_id)?.filter(|event| event.record.room == room.nid);
        if let Some(known) = known
            && self.get_event_order(known.nid)?.is_some()
        {
            return Ok(known);
        }
        let raw = self.remote.fetch_event(server, event_id).await?;
        let pdu = self.check_pdu(room, &raw).await?;
        if pdu.event_id != event_id {
            return Err(RoomError::Invalid("asked for one event, was given another".to_owned()));
        }
        let event = self.ingest(server, room, pdu, Placement::Backfilled, Relay::Nobody).await?;
        self.store.barrier().await?;
        Ok(event)
    }
}
