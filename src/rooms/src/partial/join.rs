//! The joining side: becoming part of a room by an answer that leaves its members out.

use std::sync::Arc;

use chappe_protocol::pdu::Pdu;
use chappe_store::{
    EventNid, Stamped, StateKeyNid, Ticket,
    tables::{
        events::EventStatus,
        partial_rooms::{PARTIAL_ROOMS, PARTIAL_SERVERS, PartialRoomRecord},
    },
};
use ruma::{OwnedServerName, events::StateEventType};

use crate::{
    Event, Room, RoomError, Rooms,
    join::useless_answer,
    staging::{Decided, Placement, Relay, Staging},
    state::StateRoot,
};

/// The checked parts of an answer to a join.
pub(crate) struct CheckedAnswer {
    /// Who gave it.
    pub(crate) server: OwnedServerName,
    pub(crate) auth_chain: Vec<Arc<Pdu>>,
    pub(crate) state: Vec<Arc<Pdu>>,
    /// The servers that are said to be in the room.
    pub(crate) servers: Vec<OwnedServerName>,
}

/// How many servers are believed to be in a room by the word of one.
const SERVERS_MAX: usize = 50_000;

impl Rooms {
    /// Becomes part of a room of which this server knew nothing, or nothing any more.
    pub(crate) fn commit_partial_join(
        &self,
        room: Room,
        join: &Arc<Pdu>,
        answer: CheckedAnswer,
    ) -> Result<Ticket, RoomError> {
        let mut staging = Staging::begin(self, room)?;
        let root = staging.enter_by_answer(join, &answer)?;
        staging.room.record.partial_state = true;
        staging.put_said_servers(&answer);
        let event = staging.put_join(join, root)?;
        staging.put_partial_room(&answer.server, event.nid, join.depth);
        let ticket = staging.enqueue()?;
        self.partial.begun.notify_one();
        Ok(ticket)
    }

    /// One more user joins a room that has partial state: by another server, which knows who is banned.
    pub(crate) fn commit_further_join(
        &self,
        room: Room,
        join: &Arc<Pdu>,
        answer: CheckedAnswer,
    ) -> Result<Ticket, RoomError> {
        let is_in_room = self.is_server_joined(room.nid, &self.server_name)?;
        let mut staging = Staging::begin(self, room)?;
        let told = staging.take_in_answer(join, &answer)?;
        staging.put_said_servers(&answer);
        let mut roots = Vec::new();
        for prev in &join.prev_events {
            let known = staging.get_event(prev)?.and_then(|event| event.record.state_after);
            roots.push(known.unwrap_or(told));
        }
        let state_before = staging.resolve(roots)?;
        if !is_in_room {
            // What was here is the state in which the last user left.
            staging.room.record.forward_extremities.clear();
            staging.room.record.state = state_before;
        }
        let event = staging.append_judged(join.clone(), state_before, Placement::Live, Relay::Nobody)?;
        if !event.is_accepted() {
            let reason = event.record.reason.clone();
            return Err(RoomError::Forbidden(reason.unwrap_or_else(|| "You may not join this room".to_owned())));
        }
        staging.enqueue()
    }
}

impl Staging {
    /// Puts the state of an answer in the place of what was known of the room, and checks that the join is in order there.
    pub(crate) fn enter_by_answer(&mut self, join: &Arc<Pdu>, answer: &CheckedAnswer) -> Result<StateRoot, RoomError> {
        let root = self.take_in_answer(join, answer)?;
        self.room.record.state = root;
        self.room.record.forward_extremities.clear();
        self.check_against_auth_events(join)
            .and_then(|()| self.check_against_current_state(join))
            .map_err(|error| useless_answer(&error.to_string()))?;
        Ok(root)
    }

    pub(crate) fn put_join(&mut self, join: &Arc<Pdu>, root: StateRoot) -> Result<Arc<Event>, RoomError> {
        self.put_event(Decided {
            pdu: join.clone(),
            status: EventStatus::Accepted,
            reason: None,
            state_before: Some(root),
            placement: Placement::Live,
            relay: Relay::Nobody,
            sent_by: None,
            is_new: false,
        })
    }

    /// Stores the events of an answer, and makes a state of them and of what the join itself names.
    fn take_in_answer(&mut self, join: &Arc<Pdu>, answer: &CheckedAnswer) -> Result<StateRoot, RoomError> {
        self.put_outliers(answer.auth_chain.iter().chain(&answer.state).cloned().collect())?;
        // The state's own events last: they go before the join's auth events, which the template may have named a moment ago.
        let named = join.auth_events.iter().chain(answer.state.iter().map(|pdu| &pdu.event_id));
        let mut entries: Vec<(StateKeyNid, EventNid)> = Vec::new();
        for id in named {
            let Some(event) = self.get_settled(id)? else { continue };
            if event.is_rejected() || event.record.room != self.room.nid {
                continue;
            }
            entries.extend(self.rooms.state_entry(&event)?);
        }
        let root = self.trees.build(entries)?;
        if self.get_from_root(root, &StateEventType::RoomCreate, "")?.is_none() {
            return Err(useless_answer("no create event"));
        }
        Ok(root)
    }

    fn put_said_servers(&mut self, answer: &CheckedAnswer) {
        let own_name = &self.rooms.server_name;
        let said = answer.servers.iter().take(SERVERS_MAX).chain([&answer.server]);
        let said: Vec<_> = said.filter(|server| *server != own_name).cloned().collect();
        for server in said {
            self.batch.put(&PARTIAL_SERVERS, &(self.room.nid, server.clone()), &());
            self.touched_servers.insert(server.clone());
            self.said_servers.insert(server);
        }
    }

    fn put_partial_room(&mut self, via: &OwnedServerName, join: EventNid, depth: u64) {
        let position = self.batch.next_position();
        let record = PartialRoomRecord { via: via.clone(), join, depth };
        self.batch.put(&PARTIAL_ROOMS, &self.room.nid, &Stamped { position, value: record });
    }
}
