//! Judging again, with whole states, what came while a room had partial state, and making the room an ordinary one.
//!
//! Reads and computes; the network's part is done before ([`super::resync`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use chappe_store::{
    Direction, EventNid, Order, Position, RoomNid, Stamped, StoreError, Ticket, Topic,
    tables::{
        events::{EVENT_LOG, EVENT_ORDERS, EVENTS, EventStatus, LATE_ARRIVALS, TIMELINE, TOPOLOGY},
        partial_rooms::{
            FETCHED_STATES, FINISHED_RESYNCS, FinishedResync, PARTIAL_EVENTS, PARTIAL_ROOMS, PARTIAL_SERVERS,
            PENDING_DEVICE_LISTS, PartialRoomRecord, RESYNCED_ROOMS,
        },
    },
};
use ruma::{
    OwnedEventId, OwnedServerName, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};

use crate::{
    Event, Room, RoomError, Rooms,
    staging::{Placement, Staging},
};

/// How far the events of a room have been judged again. Nothing of it is stored before all of it is.
#[derive(Default)]
pub(super) struct Rejudged {
    /// Everything noted up to here is in it.
    pub(super) up_to: Position,
    /// As they will be stored.
    pub(super) events: BTreeMap<EventNid, Arc<Event>>,
}

/// Events noted in a room with partial state, by where they are noted.
pub(super) type Noted = Vec<(Position, EventNid)>;

impl Rooms {
    /// What was noted after a position.
    pub(super) fn scan_partial_events(&self, room: &Room, after: Position) -> Result<Noted, RoomError> {
        let end = (room.nid, Position(u64::MAX >> 2));
        let rows = self.store.scan_range(&PARTIAL_EVENTS, &(room.nid, after.next()), &end, Direction::Forward);
        Ok(rows.map(|row| row.map(|((_, position), nid)| (position, nid))).collect::<Result<_, _>>()?)
    }

    /// Judges more events. Their prev events are placed, or the state after them has been fetched.
    pub(super) fn rejudge(&self, room: &Room, mut judged: Rejudged, noted: &Noted) -> Result<Rejudged, RoomError> {
        let mut staging = Staging::begin(self, room.clone())?;
        staging.room.record.partial_state = false;
        staging.rejudge_all(&mut judged, noted)?;
        self.store_trees(staging.trees)?;
        Ok(judged)
    }

    /// Ends the partial state of a room. The caller holds the room's write lock.
    ///
    /// `noted` is what came since `judged` was computed.
    pub(super) fn finish_resync(
        &self,
        room_id: &RoomId,
        mut judged: Rejudged,
        noted: &Noted,
    ) -> Result<Option<Ticket>, RoomError> {
        let room = self.require_room(room_id)?;
        let Some(partial) = self.store.get(&PARTIAL_ROOMS, &room.nid)? else { return Ok(None) };
        let mut staging = Staging::begin(self, room)?;
        staging.room.record.partial_state = false;
        staging.rejudge_all(&mut judged, noted)?;
        let missed = staging.servers_met(&partial.value, &judged)?;
        let changed = staging.apply_rejudged(&partial.value, &judged)?;
        if !changed.is_empty() {
            staging.recount_extremities(&changed)?;
        }
        staging.resolve_current_state()?;
        staging.level_rows()?;
        staging.put_finished(&partial, missed)?;
        Ok(Some(staging.enqueue()?))
    }

    /// Leaves a room that this server is no longer in as it is. The caller holds the room's write lock.
    ///
    /// The noted events stay noted: they are judged again should the server come back, before anything is built upon them.
    pub(super) fn abandon_partial(&self, room_id: &RoomId) -> Result<Ticket, RoomError> {
        let mut staging = Staging::begin(self, self.require_room(room_id)?)?;
        let room = staging.nid();
        staging.room.record.partial_state = false;
        staging.touched_servers.append(&mut staging.said_servers);
        staging.level_rows()?;
        staging.batch.delete(&PARTIAL_ROOMS, &room);
        staging.batch.delete_prefix(&PARTIAL_SERVERS, &(room,));
        staging.batch.delete_prefix(&PENDING_DEVICE_LISTS, &(room,));
        staging.enqueue()
    }

    /// Whether events of a room still wait to be judged again.
    pub(crate) fn has_partial_events(&self, room: RoomNid) -> Result<bool, StoreError> {
        Ok(self.store.scan(&PARTIAL_EVENTS, &(room,), Direction::Forward).next().transpose()?.is_some())
    }
}

impl Staging {
    fn rejudge_all(&mut self, judged: &mut Rejudged, noted: &Noted) -> Result<(), RoomError> {
        for event in judged.events.values() {
            self.remember(event);
        }
        let mut events = Vec::new();
        for (position, nid) in noted {
            judged.up_to = judged.up_to.max(*position);
            events.extend(self.get_event_by_nid(*nid)?.map(|event| (event.record.depth, *position, event)));
        }
        // Prev events first: where history was fetched meanwhile they were noted later.
        events.sort_by_key(|(depth, position, _)| (*depth, *position));
        for (_, _, event) in events {
            if judged.events.contains_key(&event.nid) {
                continue;
            }
            let event = Arc::new(self.rejudge_one(&event)?);
            self.remember(&event);
            judged.events.insert(event.nid, event);
        }
        Ok(())
    }

    fn rejudge_one(&mut self, event: &Event) -> Result<Event, RoomError> {
        let mut roots = Vec::new();
        for prev in &event.pdu.prev_events {
            let root = match self.get_event(prev)?.and_then(|event| event.record.state_after) {
                Some(root) => Some(root),
                None => self.rooms.get_fetched_state(self.room.nid, prev)?,
            };
            roots.push(root.ok_or_else(|| RoomError::Invalid(format!("The state after {prev} is not known")))?);
        }
        let before = self.resolve(roots)?;
        let (verdict, reason) = self.judge(&event.pdu, before, Placement::Hidden)?;
        let status = match (event.record.status, verdict) {
            (EventStatus::SoftFailed, EventStatus::Accepted) => EventStatus::SoftFailed,
            (_, verdict) => verdict,
        };
        let mut after = before;
        if status != EventStatus::Rejected
            && let Some((event_type, state_key)) = event.pdu.state_tuple()
        {
            let key = self.rooms.store.interner().intern_state_key(&self.rooms.store, &event_type, state_key)?;
            after = self.trees.update(before, [(key, Some(event.nid))])?;
        }
        let mut event = event.clone();
        event.record.state_before = Some(before);
        event.record.state_after = Some(after);
        if event.record.status != status {
            event.record.status = status;
            event.record.reason = reason;
            let mut pdu = (*event.pdu).clone();
            pdu.rejected = status == EventStatus::Rejected;
            event.pdu = Arc::new(pdu);
        }
        Ok(event)
    }

    /// Writes the events as they have been judged again. Answers those that were accepted and are no more, and the other way round.
    fn apply_rejudged(&mut self, partial: &PartialRoomRecord, judged: &Rejudged) -> Result<Vec<Arc<Event>>, RoomError> {
        let mut changed = Vec::new();
        for event in judged.events.values() {
            let Some(before) = self.rooms.get_event_by_nid(event.nid)? else { continue };
            // Of its text nothing has changed.
            self.batch.put(&EVENTS, &event.nid, &event.record);
            match (before.is_accepted(), event.is_accepted()) {
                (true, false) => self.unplace(event)?,
                // Clients hear of it now, as of any event that came late; what is older than the join is history.
                (false, true) if event.record.depth > partial.depth => self.place(event, Placement::Live)?,
                (false, true) => self.place(event, Placement::Backfilled)?,
                _ => continue,
            }
            tracing::info!(
                event.id = %event.pdu.event_id, room.id = %self.room.id, status = ?event.record.status,
                "event judged otherwise with all members known"
            );
            changed.push(event.clone());
        }
        Ok(changed)
    }

    /// Takes an event out of timeline and topology.
    fn unplace(&mut self, event: &Event) -> Result<(), RoomError> {
        let Some(order) = self.rooms.get_event_order(event.nid)? else { return Ok(()) };
        let room = self.room.nid;
        self.batch.delete(&TOPOLOGY, &(room, event.record.depth, order));
        self.batch.delete(&EVENT_ORDERS, &event.nid);
        if let Order::Live(position) = order {
            self.has_unplaced = true;
            self.batch.delete(&TIMELINE, &(room, position));
            self.batch.delete(&LATE_ARRIVALS, &(room, position));
            self.batch.delete(&EVENT_LOG, &position);
        }
        self.delete_relations(event)
    }

    /// The forward extremities, where events that are or were accepted no longer or newly are.
    fn recount_extremities(&mut self, changed: &[Arc<Event>]) -> Result<(), RoomError> {
        let mut open: Vec<OwnedEventId> =
            self.room.record.forward_extremities.iter().map(|(_, id, _)| id.clone()).collect();
        open.extend(changed.iter().map(|event| event.pdu.event_id.clone()));
        let (mut seen, mut extremities) = (HashSet::new(), Vec::new());
        while let Some(id) = open.pop() {
            if !seen.insert(id.clone()) {
                continue;
            }
            let Some(event) = self.get_event(&id)? else { continue };
            let is_accepted = event.record.status == EventStatus::Accepted && event.record.state_after.is_some();
            if is_accepted && !self.is_superseded(&id)? {
                extremities.push((event.nid, id, event.record.depth));
            }
            if matches!(event.record.status, EventStatus::Rejected | EventStatus::SoftFailed) {
                // What it stands on may be the end of the room now.
                open.extend(event.pdu.prev_events.iter().cloned());
            }
        }
        if !extremities.is_empty() {
            extremities.sort_by_key(|(nid, _, _)| *nid);
            self.room.record.forward_extremities = extremities;
        }
        Ok(())
    }

    /// The servers that were in the room at the join or since, and of which nobody had said so: what was sent to the room's servers
    /// meanwhile, they have missed.
    fn servers_met(
        &self,
        partial: &PartialRoomRecord,
        judged: &Rejudged,
    ) -> Result<BTreeSet<OwnedServerName>, RoomError> {
        let mut met = BTreeSet::new();
        let mut meet = |event: &Event| {
            if event.pdu.membership() == Some(MembershipState::Join)
                && let Some(user) = event.pdu.state_key().and_then(|user| UserId::parse(user).ok())
                && user.server_name() != self.rooms.server_name
                && !self.said_servers.contains(user.server_name())
            {
                met.insert(user.server_name().to_owned());
            }
        };
        if let Some(root) = judged.events.get(&partial.join).and_then(|join| join.record.state_after) {
            let store = &self.rooms.store;
            for (key, nid) in self.trees.entries(root)? {
                let parts = store.interner().get_state_key_parts(store, key)?;
                if parts.is_some_and(|parts| parts.0 == StateEventType::RoomMember)
                    && let Some(event) = self.get_event_by_nid(nid)?
                {
                    meet(&event);
                }
            }
        }
        judged.events.values().for_each(|event| meet(event));
        Ok(met)
    }

    fn put_finished(
        &mut self,
        partial: &Stamped<PartialRoomRecord>,
        missed: BTreeSet<OwnedServerName>,
    ) -> Result<(), RoomError> {
        let room = self.room.nid;
        let mut updated_users: Vec<OwnedUserId> = Vec::new();
        for row in self.rooms.store.scan(&PENDING_DEVICE_LISTS, &(room,), Direction::Forward) {
            updated_users.push(row?.0.1);
        }
        // From here on only who has users in the room is in it.
        self.touched_servers.append(&mut self.said_servers);
        self.batch.delete(&PARTIAL_ROOMS, &room);
        self.batch.delete_prefix(&PARTIAL_SERVERS, &(room,));
        self.batch.delete_prefix(&PARTIAL_EVENTS, &(room,));
        self.batch.delete_prefix(&FETCHED_STATES, &(room,));
        self.batch.delete_prefix(&PENDING_DEVICE_LISTS, &(room,));
        let position = self.batch.next_position();
        // From this position on the state is the whole one.
        self.last_position.get_or_insert(position);
        self.batch.put(&RESYNCED_ROOMS, &room, &Stamped { position, value: partial.position });
        let finished = FinishedResync { room, missed: missed.into_iter().collect(), updated_users };
        self.batch.put(&FINISHED_RESYNCS, &position, &Stamped { position: partial.position, value: finished });
        self.batch.wake(Topic::Room(room));
        Ok(())
    }
}
