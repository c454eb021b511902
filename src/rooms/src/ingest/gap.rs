//! Filling the gap between what is known of a room and an event that was pushed to this server.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chappe_protocol::{json, pdu::Pdu};
use ruma::{EventId, OwnedEventId, ServerName};
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    RemoteError, Room, RoomError, Rooms,
    remote::MissingEvents,
    staging::{Placement, Relay},
};

/// How many events one gap is filled with at a time.
const GAP_EVENTS_MAX: u32 = 20;
/// How many forward extremities the other server is told of.
const GAP_EARLIEST_MAX: usize = 100;

impl Rooms {
    /// Asks for the events between what is known and an event that names unknown ones, and takes them in. Answers those of servers that are
    /// not federated with, which are passed over.
    pub(super) async fn fill_gap(
        &self,
        origin: &ServerName,
        room: &Room,
        pdu: &Arc<Pdu>,
    ) -> Result<HashSet<OwnedEventId>, RoomError> {
        let mut denied = HashSet::new();
        if self.unplaced_prevs(pdu)?.is_empty() {
            return Ok(denied);
        }
        let current = self.require_room(&room.id)?;
        // Of very many, the newest will do: what comes twice is known already.
        let mut extremities = current.record.forward_extremities.clone();
        extremities.sort_by_key(|(_, _, depth)| Reverse(*depth));
        let gap = MissingEvents {
            earliest: extremities.into_iter().map(|(_, id, _)| id).take(GAP_EARLIEST_MAX).collect(),
            latest: vec![pdu.event_id.clone()],
            limit: GAP_EVENTS_MAX,
            // A branch that parted long ago may lie deeper than all that is known of this one.
            min_depth: 0,
        };
        let events = match self.remote.fetch_missing_events(origin, &room.id, gap).await {
            Ok(events) => events,
            Err(error) => {
                tracing::info!(%error, room.id = %room.id, server = %origin, "gap not filled");
                return Ok(denied);
            }
        };
        let mut found = HashMap::new();
        for raw in events.into_iter().take(usize::try_from(GAP_EVENTS_MAX).unwrap_or(usize::MAX)) {
            match self.check_pdu(room, &raw).await {
                Ok(event) => {
                    found.insert(event.event_id.clone(), event);
                }
                Err(RoomError::Remote(RemoteError::Denied(_))) => denied.extend(denied_event_id(room, &raw)),
                // A gap with a bad event in it is not filled at all, as a peer that sends one is not to be trusted with the rest.
                Err(error) => {
                    tracing::info!(%error, room.id = %room.id, server = %origin, "gap not filled: bad event");
                    return Err(RoomError::Invalid(format!("Missing events could not be used: {error}")));
                }
            }
        }
        let mut events = self.between(pdu, found)?;
        events.sort_by_key(|event| event.depth);
        let of_gap: HashSet<OwnedEventId> = events.iter().map(|event| event.event_id.clone()).collect();
        for event in events {
            if self.is_placed(&event.event_id)? {
                continue;
            }
            // What follows an event that could not be taken in cannot be either.
            if self.unplaced_prevs(&event)?.iter().any(|prev| of_gap.contains(prev)) {
                continue;
            }
            if let Err(error) = self.ingest(origin, room, event, Placement::Live, Relay::Nobody).await {
                tracing::info!(%error, room.id = %room.id, server = %origin, "event of a gap not taken in");
            }
        }
        Ok(denied)
    }

    /// Of events that another server names as missing, those from which a way leads to the event without meeting one that has its place here:
    /// the walk of a server that was told of some ends of the graph goes on beyond what was known at others, into history from before this
    /// server's time.
    fn between(&self, pdu: &Pdu, mut found: HashMap<OwnedEventId, Arc<Pdu>>) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let (mut events, mut open) = (Vec::new(), self.unplaced_prevs(pdu)?);
        while let Some(id) = open.pop() {
            if let Some(event) = found.remove(&id).filter(|event| event.event_id != pdu.event_id) {
                open.extend(self.unplaced_prevs(&event)?);
                events.push(event);
            }
        }
        Ok(events)
    }

    /// Whether an event that is not known here is of a server that is not federated with. Such an event is not taken in; the state after
    /// it counts as that before it.
    pub(crate) async fn is_of_denied_server(
        &self,
        origin: &ServerName,
        room: &Room,
        event_id: &EventId,
    ) -> Result<bool, RoomError> {
        let raw = self.remote.fetch_event(origin, event_id).await?;
        let outcome = self.check_pdu(room, &raw).await;
        let is_denied = matches!(outcome, Err(RoomError::Remote(RemoteError::Denied(_))));
        Ok(is_denied && denied_event_id(room, &raw).is_some_and(|id| id == event_id))
    }
}

/// The id of an event whose sender's server is not federated with: nothing else of it is looked at.
fn denied_event_id(room: &Room, raw: &RawJsonValue) -> Option<OwnedEventId> {
    Some(Pdu::from_object(json::parse_strict(raw.get()).ok()?, &room.rules).ok()?.event_id)
}
