//! Faster joins: being in a room before its members are known, and letting others in so.
//!
//! A resident server that is asked to leaves the members out of its answer to a join ([`admission`]). The joining server is in the
//! room at once with what it was told ([`join`]): the room then has *partial state*. Events are taken in and sent meanwhile, with
//! their senders' membership taken from their auth events where the state lacks it, and every event that is judged so is noted.
//! In the background [`resync`] fetches the state from before the join, and [`rejudge`] goes through the noted events again, with
//! whole states; the members' rows are written ahead ([`rows`]); one batch then replaces the events' states and verdicts and makes the room
//! an ordinary one.
//!
//! While a room has partial state, `joined_servers` also holds the servers that are in the room by the resident server's word.
//! What needs all members waits for them: [`Rooms::await_members`].
//!
//! Spec: Server-Server API, `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`, `omit_members`.

pub(crate) mod admission;
pub(crate) mod join;
pub(crate) mod rejudge;
pub mod resync;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chappe_protocol::pdu::Pdu;
use chappe_store::{
    Batch, Direction, EventNid, Position, RoomNid, Stamped, StoreError,
    tables::partial_rooms::{
        FETCHED_STATES, FINISHED_RESYNCS, FinishedResync, PARTIAL_EVENTS, PARTIAL_SERVERS, RESYNCED_ROOMS,
    },
};
use ruma::{EventId, OwnedServerName, RoomId, UserId, events::StateEventType};
use tokio::sync::{Notify, watch};

use crate::{Event, Room, RoomError, Rooms, staging::Staging, state::StateRoot};

/// How long those who need a room's members wait for them.
const WAIT_MAX: Duration = Duration::from_secs(90);

/// Who waits for what about rooms with partial state.
#[derive(Default)]
pub(crate) struct PartialRooms {
    /// A room has come to have partial state.
    begun: Notify,
    /// A room has ceased to.
    finished: watch::Sender<()>,
}

impl Rooms {
    /// Waits until all members of a room are known. Returns at once for other rooms than those with partial state.
    ///
    /// # Errors
    /// [`RoomError::MembersUnknown`] when it takes too long.
    pub async fn await_members(&self, room_id: &RoomId) -> Result<(), RoomError> {
        let mut finished = self.subscribe_resyncs();
        let waiting = async {
            loop {
                finished.borrow_and_update();
                let is_partial = self.get_room(room_id)?.is_some_and(|room| room.record.partial_state);
                if !is_partial || finished.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(WAIT_MAX, waiting).await.unwrap_or(Err(RoomError::MembersUnknown))
    }

    /// Waits for the members of a room if this user is of another server: of its own users a server knows the membership.
    pub async fn await_member(&self, room_id: &RoomId, user: &UserId) -> Result<(), RoomError> {
        if self.is_local(user) { Ok(()) } else { self.await_members(room_id).await }
    }

    /// Of a room that had partial state once: the position of the last such join, stamped with that at which it ended.
    pub fn get_resync(&self, room: RoomNid) -> Result<Option<Stamped<Position>>, StoreError> {
        self.store.get(&RESYNCED_ROOMS, &room)
    }

    /// Every room that had partial state once.
    pub fn scan_resynced_rooms(&self) -> impl Iterator<Item = Result<RoomNid, StoreError>> + '_ {
        self.store.scan(&RESYNCED_ROOMS, &(), Direction::Forward).map(|row| row.map(|(room, _)| room))
    }

    /// Whether not all members of a room were known at a position: not even if they are by now.
    pub fn is_partial_at(&self, room: &Room, position: Position) -> Result<bool, StoreError> {
        let is_still_to_come = |resync: Stamped<Position>| resync.position > position;
        Ok(room.record.partial_state || self.get_resync(room.nid)?.is_some_and(is_still_to_come))
    }

    /// The rooms whose members have become known, and for which something is left to be done.
    pub fn scan_finished_resyncs(
        &self,
    ) -> impl Iterator<Item = Result<(Position, Stamped<FinishedResync>), StoreError>> + '_ {
        self.store.scan(&FINISHED_RESYNCS, &(), Direction::Forward)
    }

    /// Changes each time all members of a room have become known that were not before.
    pub fn subscribe_resyncs(&self) -> watch::Receiver<()> {
        self.partial.finished.subscribe()
    }

    /// The member event by which an event's sender had the right to send it, where the state does not have it.
    pub fn get_sender_from_auth_events(&self, event: &Event) -> Result<Option<Arc<Event>>, StoreError> {
        for nid in &event.record.auth_events {
            if let Some(member) = self.get_event_by_nid(*nid)?
                && member.pdu.state_tuple() == Some((StateEventType::RoomMember, event.pdu.sender.as_str()))
            {
                return Ok(Some(member));
            }
        }
        Ok(None)
    }

    pub(crate) fn get_said_servers(&self, room: &Room) -> Result<BTreeSet<OwnedServerName>, StoreError> {
        if !room.record.partial_state {
            return Ok(BTreeSet::new());
        }
        let rows = self.store.scan(&PARTIAL_SERVERS, &(room.nid,), Direction::Forward);
        rows.map(|row| row.map(|((_, server), ())| server)).collect()
    }

    /// The state after an event that is in no timeline here, if another server has been asked for it since the join.
    pub(crate) fn get_fetched_state(&self, room: RoomNid, event_id: &EventId) -> Result<Option<StateRoot>, StoreError> {
        self.store.get(&FETCHED_STATES, &(room, event_id.to_owned()))
    }

    /// Remembers such a state while the room has partial state: what follows it is judged again later.
    pub(crate) fn note_fetched_state(
        &self,
        room: RoomNid,
        event_id: &EventId,
        root: StateRoot,
    ) -> Result<(), RoomError> {
        if self.get_room_by_nid(room)?.is_some_and(|room| room.record.partial_state) {
            let mut batch = Batch::new();
            batch.put(&FETCHED_STATES, &(room, event_id.to_owned()), &root);
            let _later = self.store.enqueue(batch)?;
        }
        Ok(())
    }
}

impl Staging {
    /// In a room with partial state every event with a place in the graph is judged again later.
    pub(crate) fn note_if_partial(&mut self, event: &Event) {
        if self.room.record.partial_state && event.record.state_before.is_some() {
            let position = self.batch.next_position();
            self.batch.put(&PARTIAL_EVENTS, &(self.room.nid, position), &event.nid);
        }
    }

    /// What an event's sender may do in a room with partial state is judged by that state and by the event's own auth events,
    /// resolved with each other: those bring the memberships that the state lacks.
    pub(crate) fn with_auth_events(&mut self, root: StateRoot, pdu: &Pdu) -> Result<StateRoot, RoomError> {
        let overlay = self.overlay_auth_events(root, pdu)?;
        self.resolve(vec![root, overlay])
    }

    /// A state with an event's auth events put over it.
    fn overlay_auth_events(&mut self, root: StateRoot, pdu: &Pdu) -> Result<StateRoot, RoomError> {
        let mut changes: BTreeMap<_, Option<EventNid>> = BTreeMap::new();
        for id in &pdu.auth_events {
            let Some(event) = self.get_settled(id)?.filter(|event| !event.is_rejected()) else { continue };
            changes.extend(self.rooms.state_entry(&event)?.map(|(key, nid)| (key, Some(nid))));
        }
        Ok(self.trees.update(root, changes)?)
    }
}
