//! Receiving events from other servers: the full pipeline of checks, from raw text to a place in the room.
//!
//! Raw JSON -> [`check`] (format, signatures, content hash) -> [`gap`] (missing prev events) -> [`state_before`] the event ->
//! [`outliers`] (missing auth events) -> [`judge`] (authorization; rejected, soft-failed or accepted). Loops over what other servers say
//! are bounded, and nothing is recursive.
//!
//! Spec: Server-Server API, Checks performed on receipt of a PDU.

mod check;
mod gap;
mod judge;
mod outliers;
mod state_before;

use std::sync::Arc;

use chappe_protocol::pdu::Pdu;
use chappe_store::CommitError;
use ruma::{EventId, OwnedEventId, RoomId, ServerName};
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    Event, Room, RoomError, Rooms, blocking,
    staging::{Ahead, Placement, Relay, Staging},
    state::StateRoot,
};

/// How many auth or state events are fetched one by one before the whole is asked for.
const SINGLE_FETCHES_MAX: usize = 50;

/// A checked event about to be judged.
struct Received {
    pdu: Arc<Pdu>,
    not_recommended: Option<String>,
    state_before: StateRoot,
    placement: Placement,
    relay: Relay,
    ahead: Ahead,
}

impl Rooms {
    /// Takes in the events of a room that came in one transaction, in their order. What becomes of each is `Ok` also for events that are
    /// kept but rejected or soft-failed, and for those known before.
    ///
    /// # Errors
    /// Something could not be stored that may be later. What came before it has been taken in.
    pub async fn receive_pdus(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        raws: &[Box<RawJsonValue>],
    ) -> Result<Vec<Result<(), RoomError>>, CommitError> {
        let mut results = Vec::with_capacity(raws.len());
        for raw in raws {
            match self.receive_pdu(origin, room_id, raw).await {
                Err(RoomError::Commit(error)) if error.is_passing() => return Err(error),
                result => results.push(result),
            }
        }
        // Also for what another transaction has brought and is still waiting for.
        self.store.barrier().await?;
        Ok(results)
    }

    pub(crate) async fn receive_pdu(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        raw: &RawJsonValue,
    ) -> Result<(), RoomError> {
        let room = match self.get_room(room_id)? {
            Some(room) if self.is_server_joined(room.nid, &self.server_name)? => room,
            _ => return self.receive_out_of_band(origin, room_id, raw).await,
        };
        if !self.is_server_admitted(room.nid, origin)? {
            return Err(RoomError::Forbidden("The room's access list denies your server".to_owned()));
        }
        let pdu = self.check_pdu(&room, raw).await?;
        let _queue = self.locks.ingest(room_id).await;
        if self.is_placed(&pdu.event_id)? {
            return Ok(());
        }
        match self.ingest_pushed(origin, &room, pdu.clone()).await {
            // The event itself is in order, its surroundings could not be had.
            Err(error @ (RoomError::Remote(_) | RoomError::Invalid(_))) => {
                tracing::info!(%error, event.id = %pdu.event_id, room.id = %room_id, server = %origin, "event left out: not enough is known around it");
                self.leave_out(origin, &room, &pdu).await
            }
            Err(error) => Err(error),
            Ok(()) => self.hasten_followers(&room).await,
        }
    }

    /// Takes in an event that was pushed to this server, after what is missing before it.
    ///
    /// Its prev events must all come by `get_missing_events`: whoever pushes an event has them. The state is only asked for where the
    /// events of a gap end. The caller holds the room's ingest lock.
    pub(crate) async fn ingest_pushed(&self, origin: &ServerName, room: &Room, pdu: Arc<Pdu>) -> Result<(), RoomError> {
        let denied = self.fill_gap(origin, room, &pdu).await?;
        if let Some(missing) = self.unplaced_prevs(&pdu)?.iter().find(|prev| !denied.contains(*prev)) {
            return Err(RoomError::Invalid(format!("Prev event {missing} could not be had")));
        }
        self.ingest(origin, room, pdu, Placement::Live, Relay::Nobody).await.map(|_| ())
    }

    /// Whether an event is known with its place in the graph: not merely as an outlier.
    pub(crate) fn is_placed(&self, event_id: &EventId) -> Result<bool, RoomError> {
        Ok(self.get_event(event_id)?.is_some_and(|event| event.record.state_after.is_some()))
    }

    pub(crate) fn unplaced_prevs(&self, pdu: &Pdu) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut missing = Vec::new();
        for prev in &pdu.prev_events {
            if !self.is_placed(prev)? {
                missing.push(prev.clone());
            }
        }
        Ok(missing)
    }

    /// Gives a checked event its place in the room: fetches the auth events and state it needs, judges it and stores it.
    ///
    /// The caller holds the room's ingest lock. Before anybody is told that the event was taken in, the store's barrier is to be waited for:
    /// several events in a row need not be made durable one by one.
    pub(crate) async fn ingest(
        &self,
        origin: &ServerName,
        room: &Room,
        pdu: Arc<Pdu>,
        placement: Placement,
        relay: Relay,
    ) -> Result<Arc<Event>, RoomError> {
        let mut was_partial = self.require_room(&room.id)?.record.partial_state;
        // In this order: where the state must be fetched, its auth chain brings what the event itself needs.
        let mut state_before = self.state_before(origin, room, &pdu).await?;
        self.fetch_missing_auth_events(origin, room, &pdu).await?;
        let (pdu, not_recommended) = match placement {
            Placement::Live => self.check_recommended(room, pdu).await?,
            _ => (pdu, None),
        };
        let ahead = self.resolve_ahead(&room.id, &pdu, state_before, placement).await?;
        let (_writing, current) = loop {
            let writing = self.locks.write(&room.id).await;
            let current = self.require_room(&room.id)?;
            let is_partial = current.record.partial_state;
            if was_partial == is_partial {
                break (writing, current);
            }
            // All members have become known meanwhile, and the state after each event was worked out anew.
            drop(writing);
            was_partial = is_partial;
            state_before = self.state_before(origin, room, &pdu).await?;
        };
        let rooms = self.clone();
        let received = Received { pdu, not_recommended, state_before, placement, relay, ahead };
        blocking(move || rooms.enqueue_received(current, received)).await
    }

    /// Where an event meets others that it does not follow, resolving their states may take long. So it is done once before the room is
    /// locked for writing; what it comes to is used then, as far as nothing has changed meanwhile.
    async fn resolve_ahead(
        &self,
        room_id: &RoomId,
        pdu: &Arc<Pdu>,
        state_before: StateRoot,
        placement: Placement,
    ) -> Result<Ahead, RoomError> {
        let room = self.require_room(room_id)?;
        let meets_others = room.record.forward_extremities.iter().any(|(_, id, _)| !pdu.prev_events.contains(id));
        if placement != Placement::Live || !meets_others {
            return Ok(Ahead::default());
        }
        let (rooms, pdu) = (self.clone(), pdu.clone());
        let resolve = move || {
            let mut staging = Staging::begin(&rooms, room)?;
            staging.append_judged(pdu, state_before, placement, Relay::Nobody)?;
            rooms.store_trees(staging.trees)?;
            Ok(staging.ahead)
        };
        blocking(resolve).await
    }

    fn enqueue_received(&self, room: Room, received: Received) -> Result<Arc<Event>, RoomError> {
        let Received { pdu, not_recommended, state_before, placement, relay, ahead } = received;
        let mut staging = Staging::begin(self, room)?;
        staging.not_recommended = not_recommended;
        staging.ahead = ahead;
        let event = staging.append_judged(pdu, state_before, placement, relay)?;
        if let Some(reason) = &event.record.reason {
            tracing::info!(event.id = %event.pdu.event_id, room.id = %staging.room.id, status = ?event.record.status, reason, "event refused");
        }
        let _barrier_is_waited_for = staging.enqueue()?;
        Ok(event)
    }
}
