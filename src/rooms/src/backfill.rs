//! History from other servers: fetching it, and handing it out.
//!
//! Spec: Server-Server API, Backfilling and retrieving missing events, Retrieving events.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, ServerName, UserId};
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    Event, Room, RoomError, Rooms,
    handshake::{raw_of, raws_of},
    remote::RawEvents,
    staging::{Placement, Relay},
    timeline::Place,
    told::ToldEvents,
};

/// How many events one backfill asks for at the most, and hands out at the most.
const BACKFILL_EVENTS_MAX: u32 = 100;
/// How many backward extremities one request names.
const EXTREMITIES_MAX: usize = 20;
/// How many servers are asked in turn.
const SERVERS_MAX: usize = 5;

/// What came of fetching history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backfilled {
    /// Nobody was asked: what is known reaches far enough.
    Enough,
    /// Events came.
    New,
    /// There is no more, or nobody who would give it could be reached.
    Nothing,
}

impl Rooms {
    /// Fetches history from before what is known, if a reader who stands at `from` and wants `limit` events may run out of it.
    ///
    /// Failure to reach anyone is no error: there is just no more history for now.
    pub async fn backfill(&self, room: &Room, from: Place, limit: u32) -> Result<Backfilled, RoomError> {
        if !self.is_server_joined(room.nid, &self.server_name)? {
            return Ok(Backfilled::Nothing);
        }
        let mut extremities = self.get_backward_extremities(room.nid)?;
        extremities.retain(|(_, depth)| *depth <= from.0.saturating_add(1));
        if extremities.is_empty() {
            return Ok(Backfilled::Nothing);
        }
        extremities.sort_by_key(|(_, depth)| std::cmp::Reverse(*depth));
        // As far as is known without gap, the history reaches down to the deepest extremity.
        let reach = self.get_page(
            room.nid,
            from,
            chappe_store::Direction::Reverse,
            usize::try_from(limit).unwrap_or(usize::MAX),
        )?;
        let deepest = extremities.first().map_or(0, |(_, depth)| *depth);
        let is_enough = reach.len() >= usize::try_from(limit).unwrap_or(usize::MAX)
            && reach.last().is_some_and(|((depth, _), _)| *depth > deepest);
        if is_enough {
            return Ok(Backfilled::Enough);
        }
        let ids: Vec<OwnedEventId> = extremities.into_iter().map(|(id, _)| id).take(EXTREMITIES_MAX).collect();
        for server in self.servers_with_history(room)? {
            match self.remote.fetch_backfill(&server, &room.id, ids.clone(), limit.clamp(1, BACKFILL_EVENTS_MAX)).await
            {
                Ok(events) if !events.is_empty() => {
                    let is_new = self.take_in_history(&server, room, events).await?;
                    return Ok(if is_new { Backfilled::New } else { Backfilled::Nothing });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::info!(%error, room.id = %room.id, server = %server, "no history from this server")
                }
            }
        }
        Ok(Backfilled::Nothing)
    }

    /// Servers in the room, those of the most powerful users first: they are likely to have been there the longest.
    pub(crate) fn servers_with_history(&self, room: &Room) -> Result<Vec<OwnedServerName>, RoomError> {
        let mut servers = Vec::new();
        if let Some(create) = self.get_state_event(room.nid, &ruma::events::StateEventType::RoomCreate, "")? {
            servers.push(create.pdu.sender.server_name().to_owned());
        }
        if let Some(levels) = self.get_power_levels(room)? {
            let mut users: Vec<_> = levels.users().iter().collect();
            users.sort_by_key(|(_, level)| std::cmp::Reverse(**level));
            servers.extend(users.into_iter().map(|(user, _)| user.server_name().to_owned()));
        }
        let joined = self.get_joined_servers(room.nid)?;
        servers.retain(|server| joined.contains(server));
        servers.extend(joined);
        crate::invite::dedup(&mut servers);
        servers.retain(|server| *server != self.server_name && self.gate.is_allowed(server));
        servers.truncate(SERVERS_MAX);
        Ok(servers)
    }

    async fn take_in_history(&self, server: &ServerName, room: &Room, events: RawEvents) -> Result<bool, RoomError> {
        let mut checked = Vec::new();
        for raw in events.into_iter().take(usize::try_from(BACKFILL_EVENTS_MAX).unwrap_or(usize::MAX)) {
            match self.check_pdu(room, &raw).await {
                Ok(pdu) => checked.push(pdu),
                Err(error) => tracing::info!(%error, room.id = %room.id, server = %server, "backfilled event is bad"),
            }
        }
        let _queue = self.locks.ingest(&room.id).await;
        // Oldest first, so that each event's state follows from its prev events' where those came along.
        checked.sort_by_key(|pdu| pdu.depth);
        let mut is_new = false;
        for pdu in checked {
            if self.get_event(&pdu.event_id)?.is_some_and(|event| event.record.state_after.is_some()) {
                continue;
            }
            let event_id = pdu.event_id.clone();
            match self.ingest(server, room, pdu, Placement::Backfilled, Relay::Nobody).await {
                Ok(_) => is_new = true,
                Err(error) => {
                    tracing::info!(%error, event.id = %event_id, server = %server, "backfilled event not taken in")
                }
            }
        }
        if is_new {
            self.drop_superseded_extremities(&room.id).await?;
            self.store.barrier().await?;
        }
        Ok(is_new)
    }

    // Handing out.

    /// Events before some events, newest first, as far as the asking server may see them.
    pub fn get_backfill(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        from: &[OwnedEventId],
        limit: u32,
    ) -> Result<RawEvents, RoomError> {
        let room = self.require_shared_room(origin, room_id)?;
        let limit = usize::try_from(limit.min(BACKFILL_EVENTS_MAX)).unwrap_or(usize::MAX);
        let mut found: HashMap<OwnedEventId, Arc<Event>> = HashMap::new();
        let mut heap = std::collections::BinaryHeap::new();
        let mut seen = HashSet::new();
        for id in from {
            if let Some(event) = self.get_event(id)?.filter(|event| event.record.room == room.nid)
                && seen.insert(id.clone())
            {
                heap.push((event.record.depth, event.nid));
            }
        }
        while let Some((_, nid)) = heap.pop() {
            if found.len() >= limit {
                break;
            }
            let Some(event) = self.get_event_by_nid(nid)? else { continue };
            for prev in &event.pdu.prev_events {
                if let Some(prev_event) = self.get_event(prev)?.filter(|event| event.record.state_after.is_some())
                    && seen.insert(prev.clone())
                {
                    heap.push((prev_event.record.depth, prev_event.nid));
                }
            }
            if event.record.state_after.is_some() && !event.is_rejected() {
                found.insert(event.pdu.event_id.clone(), event);
            }
        }
        let mut events: Vec<_> = found.into_values().collect();
        events.sort_by_key(|event| std::cmp::Reverse((event.record.depth, event.nid)));
        events.iter().map(|event| self.shown_to_server(&room, event, origin)).collect()
    }

    /// The events between two sets of events, oldest first, as far as the asking server may see them.
    pub fn get_missing_events(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        limit: u32,
        min_depth: u64,
    ) -> Result<RawEvents, RoomError> {
        let room = self.require_shared_room(origin, room_id)?;
        let limit = usize::try_from(limit.min(20)).unwrap_or(usize::MAX);
        let mut seen: HashSet<OwnedEventId> = earliest.iter().cloned().collect();
        let mut queue: VecDeque<OwnedEventId> = latest.iter().take(EXTREMITIES_MAX).cloned().collect();
        let mut events = Vec::new();
        while let Some(id) = queue.pop_front() {
            if events.len() >= limit {
                break;
            }
            let Some(event) = self.get_event(&id)?.filter(|event| event.record.room == room.nid) else { continue };
            for prev in &event.pdu.prev_events {
                let Some(prev_event) =
                    self.get_event(prev)?.filter(|event| event.record.state_after.is_some() && !event.is_rejected())
                else {
                    continue;
                };
                if prev_event.record.depth < min_depth || !seen.insert(prev.clone()) {
                    continue;
                }
                queue.push_back(prev.clone());
                if events.len() < limit {
                    events.push(prev_event);
                }
            }
        }
        events.sort_by_key(|event| (event.record.depth, event.nid));
        events.iter().map(|event| self.shown_to_server(&room, event, origin)).collect()
    }

    /// An event as a server may see it: whole, or redacted where history visibility hides it or its sender is to be forgotten.
    fn shown_to_server(&self, room: &Room, event: &Event, server: &ServerName) -> Result<Box<RawJsonValue>, RoomError> {
        if self.is_visible_to_server(event, server)? && !self.is_erased_for_server(event, server)? {
            return raw_of(event);
        }
        let redacted = event.pdu.redacted(&room.rules).map_err(|error| RoomError::broken(error.to_string()))?;
        redacted.to_federation_raw().map_err(|error| RoomError::broken(error.to_string()))
    }

    /// One event, for a server that is in its room and may see it. "Not yours" and "unknown" are one answer.
    pub fn get_event_for_server(
        &self,
        origin: &ServerName,
        event_id: &EventId,
    ) -> Result<Box<RawJsonValue>, RoomError> {
        let unknown = || RoomError::NotFound("Event not found".to_owned());
        let event = self.get_event(event_id)?.ok_or_else(unknown)?;
        let room = self.get_room_by_nid(event.record.room)?.ok_or_else(unknown)?;
        if event.is_rejected()
            || !self.is_server_joined(room.nid, origin)?
            || !self.is_server_admitted(room.nid, origin)?
        {
            return Err(unknown());
        }
        if event.record.state_before.is_some() && !self.is_visible_to_server(&event, origin)? {
            return Err(unknown());
        }
        if self.is_erased_for_server(&event, origin)? {
            let redacted = self.redacted_pdu(&event)?;
            return redacted.to_federation_raw().map_err(|error| RoomError::broken(error.to_string()));
        }
        raw_of(&event)
    }

    /// The auth chain of an event.
    pub fn get_event_auth(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<RawEvents, RoomError> {
        let event = self.require_event_of_room(origin, room_id, event_id)?;
        raws_of(&self.get_auth_chain(&event.record.auth_events)?)
    }

    /// The state before an event, and the auth chain of that state.
    pub fn get_state_for_server(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<(ToldEvents, ToldEvents), RoomError> {
        let event = self.require_event_of_room(origin, room_id, event_id)?;
        // Nor if it has left again before it knew the state of those events.
        let room = self.require_room(room_id)?;
        if room.record.partial_state || self.has_partial_events(room.nid)? {
            return Err(RoomError::Forbidden("This server has only just joined the room: ask another".to_owned()));
        }
        let Some(root) = event.record.state_before else {
            return Err(RoomError::NotFound("State at the event is not known".to_owned()));
        };
        let state: Vec<_> = self.trees.entries(room.nid, root)?.into_iter().map(|(_, nid)| nid).collect();
        let auth_chain = self.chains.full_chain(&state)?;
        Ok((self.tell(state), self.tell(auth_chain)))
    }

    pub(crate) fn get_auth_chain(&self, auth_events: &[chappe_store::EventNid]) -> Result<Vec<Arc<Event>>, RoomError> {
        let mut events = Vec::new();
        for nid in self.chains.with_ancestors(auth_events)? {
            events.extend(self.get_event_by_nid(nid)?);
        }
        Ok(events)
    }

    fn require_event_of_room(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Arc<Event>, RoomError> {
        let room = self.require_shared_room(origin, room_id)?;
        self.get_event(event_id)?
            .filter(|event| event.record.room == room.nid && !event.is_rejected())
            .ok_or_else(|| RoomError::NotFound("Event not found".to_owned()))
    }

    /// A room that the asking server is in, as far as this one knows: it may have left itself, and still be asked about what it
    /// sent last.
    pub(crate) fn require_shared_room(&self, origin: &ServerName, room_id: &RoomId) -> Result<Room, RoomError> {
        let room = self.require_room(room_id)?;
        if !self.is_server_admitted(room.nid, origin)? {
            return Err(RoomError::Forbidden("The room's access list denies your server".to_owned()));
        }
        if !self.is_server_joined(room.nid, origin)? {
            return Err(RoomError::Forbidden("Your server is not in the room".to_owned()));
        }
        Ok(room)
    }

    /// An event of a room, if the user may see it.
    pub fn get_visible_event(
        &self,
        room: &Room,
        user: &UserId,
        event_id: &EventId,
    ) -> Result<Option<Arc<Event>>, RoomError> {
        let Some(event) = self.get_event(event_id)? else { return Ok(None) };
        let is_visible = event.record.room == room.nid && self.is_visible_to_user(&event, user)?;
        Ok(is_visible.then_some(event))
    }
}
