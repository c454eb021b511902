//! The end of a batch: what the whole of it comes to, and what goes to other servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chappe_store::{
    Batch, Domain, EventNid, RoomNid, StoreError, Ticket, Topic,
    tables::{
        catch_up::CATCH_UP,
        events::BACKFILLED,
        outgoing::{OUTGOING, OutgoingItem},
        rooms::ROOMS,
        state::STATE_LOG,
    },
};
use ruma::{OwnedServerName, UserId, events::StateEventType};

use super::{Relay, Staging};
use crate::{
    Event, RoomError, Rooms,
    heads::Head,
    permits::{Permit, Subject},
    state::NewNodes,
};

/// What a batch makes of a room, to be kept in memory once the batch is enqueued.
pub(crate) struct Closed {
    room: RoomNid,
    head: Head,
    events: Vec<Arc<Event>>,
    nodes: NewNodes,
    permits: Vec<(Subject, Permit)>,
    has_redacted_state: bool,
    has_unplaced: bool,
}

impl Staging {
    /// Derives what follows from the change of state, and hands the batch to the log.
    pub(crate) fn enqueue(self) -> Result<Ticket, RoomError> {
        let rooms = self.rooms.clone();
        let (batch, closed) = self.close()?;
        rooms.enqueue_closed(batch, [closed])
    }

    /// Derives what follows from the change of state, and leaves the batch to the caller, who may go on with another room in it
    /// before [`Rooms::enqueue_closed`].
    pub(crate) fn close(mut self) -> Result<(Batch, Closed), RoomError> {
        let room = self.room.nid;
        let servers_before = match self.rooms.heads.get(room) {
            Some(head) => head.servers,
            None => Arc::new(self.rooms.scan_joined_servers(room).collect::<Result<_, _>>()?),
        };
        let mut servers_after = servers_before.clone();
        let is_changed = self.room.record.state != self.state_at_start;
        if is_changed || self.row_changes.is_some() {
            let changes = match self.row_changes.take() {
                Some(changes) => changes,
                None => self.trees.diff(self.state_at_start, self.room.record.state)?,
            };
            let changes = if self.has_rows_ahead { self.beside_rows(changes)? } else { changes };
            let position = match self.last_position {
                Some(position) => position,
                None => self.batch.next_position(),
            };
            if is_changed {
                self.batch.put(&STATE_LOG, &(room, position), &self.room.record.state);
            }
            self.derive(changes, position, Arc::make_mut(&mut servers_after))?;
        } else if !self.touched_servers.is_empty() {
            self.put_server_rows(BTreeMap::new(), Arc::make_mut(&mut servers_after))?;
        }
        for (position, nid, relay) in std::mem::take(&mut self.outgoing) {
            let concerned = self.server_of_member(nid)?;
            for server in servers_before.keys().chain(servers_after.keys()).chain(&concerned).collect::<BTreeSet<_>>() {
                let handed_over_by = matches!(&relay, Relay::EveryoneBut(but) if but == server);
                if *server != self.rooms.server_name
                    && !handed_over_by
                    && self.rooms.gate.is_allowed(server)
                    && !(servers_after.contains_key(server) && self.is_caught_up_later(server)?)
                {
                    self.batch.put(&OUTGOING, &(server.clone(), position), &OutgoingItem::Pdu(nid));
                    self.batch.wake(Topic::Destination(server.clone()));
                }
            }
        }
        self.put_threads()?;
        if let Some(count) = self.backfilled {
            self.batch.put(&BACKFILLED, &room, &count);
        }
        self.batch.put(&ROOMS, &room, &self.room.record);
        self.batch.guard(Domain::Room(room), self.seen);
        self.batch.wake(Topic::Room(room));
        let nodes = self.trees.put_into(&mut self.batch);
        self.chains.put_into(&mut self.batch);
        let known = self.deepest.or_else(|| Some(self.rooms.heads.get(room)?.deepest)).flatten();
        let head = Head { deepest: known.filter(|_| !self.has_unplaced), servers: servers_after };
        let closed = Closed {
            room,
            head,
            events: self.events.into_values().collect(),
            nodes,
            permits: self.permits,
            has_redacted_state: self.has_redacted_state,
            has_unplaced: self.has_unplaced,
        };
        Ok((self.batch, closed))
    }

    /// Whether a server is away for so long that nothing is queued for it: it is sent the newest events of its rooms one day.
    fn is_caught_up_later(&self, server: &OwnedServerName) -> Result<bool, StoreError> {
        Ok(self.rooms.store.get(&CATCH_UP, server)?.is_some_and(|record| !record.is_ending))
    }

    /// The server of the user that a membership event takes an invite or knock back from: it is not in the room, but has told its
    /// user of it.
    fn server_of_member(&self, event: EventNid) -> Result<Option<OwnedServerName>, StoreError> {
        let Some(event) = self.get_event_by_nid(event)? else { return Ok(None) };
        let ends = event.pdu.membership().is_some_and(|membership| matches!(membership.as_str(), "leave" | "ban"));
        let (true, Some(root), Some(user)) = (ends, event.record.state_before, event.pdu.state_key()) else {
            return Ok(None);
        };
        let before = self.get_from_root(root, &StateEventType::RoomMember, user)?;
        let was_pending = before
            .and_then(|before| before.pdu.membership())
            .is_some_and(|membership| matches!(membership.as_str(), "invite" | "knock"));
        Ok(UserId::parse(user).ok().filter(|_| was_pending).map(|user| user.server_name().to_owned()))
    }
}

impl Rooms {
    /// Hands a batch of one or more rooms to the log.
    pub(crate) fn enqueue_closed(
        &self,
        batch: Batch,
        rooms: impl IntoIterator<Item = Closed>,
    ) -> Result<Ticket, RoomError> {
        let ticket = self.store.enqueue(batch)?;
        for Closed { room, head, events, nodes, permits, has_redacted_state, has_unplaced } in rooms {
            self.cache.replace(events);
            self.trees.keep(nodes);
            self.heads.put(room, head);
            if has_redacted_state {
                self.permits.take_back(room);
            } else {
                self.permits.give(permits);
            }
            if has_unplaced {
                self.end_of_log.forget();
            }
        }
        Ok(ticket)
    }
}
