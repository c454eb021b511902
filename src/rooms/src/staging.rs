//! One batch of a room taking form: events, the state after them, indexes, extremities, outgoing rows.
//!
//! A [`Staging`] is made under the room's write lock, sees its own events before they are stored, and ends in
//! [`Staging::enqueue`]. Everything that follows from a change of state (members, servers, the flat index) is derived there, once,
//! from the difference between the state before and after. It decides nothing: whether an event is accepted is its caller's business.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chappe_protocol::{pdu::Pdu, power::PowerLevels};
use chappe_store::{
    Batch, Direction, Domain, EventNid, Json, Order, Position, RoomNid, Stamped, StoreError, Ticket, Topic,
    tables::{
        catch_up::CATCH_UP,
        events::{
            BACKFILL_LOG, BACKFILLED, BACKWARD_EXTREMITIES, EVENT_JSON, EVENT_LOG, EVENT_NIDS, EVENT_ORDERS, EVENTS,
            EventRecord, EventStatus, LATE_ARRIVALS, LateArrival, NEXT_EVENTS, PENDING_REDACTIONS, SENT_TIMES, SentBy,
            TIMELINE, TOPOLOGY, TRANSACTIONS,
        },
        outgoing::{OUTGOING, OutgoingItem},
        rooms::{
            FORGOTTEN, JOINED_SERVERS, MEMBERS, MEMBERSHIP_LOG, MemberRecord, ROOMS, SERVER_ROOMS, SPACE_CHILDREN,
            STRIPPED_STATE, USER_ROOMS,
        },
        state::{CURRENT_STATE, STATE_LOG},
    },
};
use ruma::{
    EventId, OwnedEventId, OwnedServerName, OwnedUserId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
};
use serde::Deserialize;

use crate::{
    Event, Room, RoomError, Rooms,
    auth_chain::ChainBatch,
    heads::Head,
    relations::ThreadStage,
    relationships::put_relationship,
    state::{StateChange, StateRoot, TreeBatch},
    timeline::Place,
};

/// Where an event is put among the room's events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Placement {
    /// At the end of the timeline.
    Live,
    /// In the history, before all that was live.
    Backfilled,
    /// Nowhere that clients look: outliers, rejected and soft-failed events.
    Hidden,
}

/// Which servers this server must send a live event to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Relay {
    /// It came by federation: its own server sends it.
    Nobody,
    /// Every server in the room, before the event or after it.
    Everyone,
    /// As `Everyone`, but for the server that handed it over.
    EveryoneBut(OwnedServerName),
}

/// An event about to be stored, all decisions taken.
pub(crate) struct Decided {
    pub(crate) pdu: Arc<Pdu>,
    pub(crate) status: EventStatus,
    pub(crate) reason: Option<String>,
    pub(crate) state_before: Option<StateRoot>,
    pub(crate) placement: Placement,
    pub(crate) relay: Relay,
    pub(crate) sent_by: Option<SentBy>,
}

/// What was found out about a batch that was not committed, and holds for another one with the same events.
#[derive(Default)]
pub(crate) struct Ahead {
    /// The numbers of events that are not stored yet.
    nids: HashMap<OwnedEventId, EventNid>,
    /// Roots of states, in order, and the root of what they resolve to, whose tree is stored or of this batch.
    pub(crate) resolved: HashMap<Vec<StateRoot>, StateRoot>,
    /// An event of a local user that was built, and the state before it.
    pub(crate) own: Option<(Arc<Pdu>, StateRoot)>,
}

pub(crate) struct Staging {
    pub(crate) rooms: Rooms,
    pub(crate) room: Room,
    pub(crate) batch: Batch,
    pub(crate) trees: TreeBatch,
    pub(crate) chains: ChainBatch,
    pub(crate) threads: ThreadStage,
    events: HashMap<OwnedEventId, Arc<Event>>,
    ids: HashMap<EventNid, OwnedEventId>,
    /// What this batch has found missing from the history.
    missing: BTreeSet<OwnedEventId>,
    state_at_start: StateRoot,
    seen: Position,
    pub(crate) last_position: Option<Position>,
    backfilled: Option<u64>,
    /// Where the deepest live event stands, once it has been looked for.
    deepest: Option<Option<Place>>,
    /// Live events have been taken out of the timeline: perhaps the deepest one.
    pub(crate) has_unplaced: bool,
    /// While not all members are known: the servers in the room by the word of another.
    pub(crate) said_servers: BTreeSet<OwnedServerName>,
    /// Servers whose rows may have to change though none of their users does.
    pub(crate) touched_servers: BTreeSet<OwnedServerName>,
    outgoing: Vec<(Position, EventNid, Relay)>,
    /// Whether the flat rows may have more than the state at the start, see [`crate::partial`].
    has_rows_ahead: bool,
    /// The state after the extremities that an event of a local user names, where it cannot name them all.
    pub(crate) named_state: Option<StateRoot>,
    /// What the flat rows are to become, in place of what the change of state makes of them.
    pub(crate) row_changes: Option<Vec<StateChange>>,
    /// Why the event about to be judged is not recommended by the room's policy server.
    pub(crate) not_recommended: Option<String>,
    pub(crate) ahead: Ahead,
}

/// What a batch makes of a room, to be kept in memory once the batch is enqueued.
pub(crate) struct Closed {
    room: RoomNid,
    head: Head,
    events: Vec<Arc<Event>>,
}

impl Staging {
    /// Starts on a room as it is stored now. The caller holds the room's write lock.
    pub(crate) fn begin(rooms: &Rooms, room: Room) -> Result<Self, RoomError> {
        Self::begin_in(rooms, room, Batch::new())
    }

    /// As [`Staging::begin`], in a batch that already holds other rows: those of another room, by [`Staging::close`].
    pub(crate) fn begin_in(rooms: &Rooms, room: Room, batch: Batch) -> Result<Self, RoomError> {
        Ok(Self {
            seen: rooms.store.domain_version(&Domain::Room(room.nid))?,
            trees: rooms.trees.begin(room.nid),
            chains: rooms.chains.begin(),
            threads: ThreadStage::default(),
            batch,
            events: HashMap::new(),
            ids: HashMap::new(),
            missing: BTreeSet::new(),
            state_at_start: room.record.state,
            last_position: None,
            backfilled: None,
            deepest: None,
            has_unplaced: false,
            said_servers: rooms.get_said_servers(&room)?,
            touched_servers: BTreeSet::new(),
            outgoing: Vec::new(),
            has_rows_ahead: room.record.partial_state,
            named_state: None,
            row_changes: None,
            not_recommended: None,
            ahead: Ahead::default(),
            rooms: rooms.clone(),
            room,
        })
    }

    pub(crate) fn nid(&self) -> RoomNid {
        self.room.nid
    }

    pub(crate) fn get_event(&self, event_id: &EventId) -> Result<Option<Arc<Event>>, StoreError> {
        if let Some(event) = self.events.get(event_id) {
            return Ok(Some(event.clone()));
        }
        self.rooms.get_event(event_id)
    }

    pub(crate) fn get_event_by_nid(&self, nid: EventNid) -> Result<Option<Arc<Event>>, StoreError> {
        if let Some(event) = self.ids.get(&nid).and_then(|id| self.events.get(id)) {
            return Ok(Some(event.clone()));
        }
        self.rooms.get_event_by_nid(nid)
    }

    /// An event that is known with its auth chain: not merely by an out-of-band invite.
    pub(crate) fn get_settled(&self, event_id: &EventId) -> Result<Option<Arc<Event>>, StoreError> {
        match self.get_event(event_id)? {
            Some(event) if !event.pdu.is_state() || self.chains.contains(event.nid)? => Ok(Some(event)),
            _ => Ok(None),
        }
    }

    /// The event at a key of a state, stored or of this batch.
    pub(crate) fn get_from_root(
        &self,
        root: StateRoot,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        let store = &self.rooms.store;
        let Some(key) = store.interner().get_state_key(store, event_type, state_key)? else { return Ok(None) };
        let Some(nid) = self.trees.get(root, key)? else { return Ok(None) };
        self.get_event_by_nid(nid)
    }

    /// The event at a key of the current state, this batch included.
    pub(crate) fn get_state_event(
        &self,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        self.get_from_root(self.room.record.state, event_type, state_key)
    }

    pub(crate) fn get_power_levels(&self, root: StateRoot) -> Result<Option<PowerLevels>, RoomError> {
        let Some(create) = self.get_from_root(root, &StateEventType::RoomCreate, "")? else { return Ok(None) };
        let levels = self.get_from_root(root, &StateEventType::RoomPowerLevels, "")?;
        Ok(PowerLevels::from_events(&self.room.rules, &create.pdu, levels.as_ref().map(|event| &*event.pdu)).ok())
    }

    /// Stores an event and, if it is an accepted live one, moves the room on: extremities and, from the event's own state, the current state.
    ///
    /// Where several extremities remain, the caller sets the current state by [`Staging::set_current_state`].
    pub(crate) fn put_event(&mut self, decided: Decided) -> Result<Arc<Event>, RoomError> {
        let Decided { pdu, status, reason, state_before, placement, relay, sent_by } = decided;
        let known = self.get_event(&pdu.event_id)?;
        let nid = match &known {
            Some(event) => event.nid,
            None => {
                let next = || self.rooms.store.interner().next_event();
                *self.ahead.nids.entry(pdu.event_id.clone()).or_insert_with(next)
            }
        };

        let mut auth_events = Vec::with_capacity(pdu.auth_events.len());
        for id in &pdu.auth_events {
            auth_events.extend(self.get_settled(id)?.filter(|event| event.pdu.is_state()).map(|event| event.nid));
        }
        let takes_part = matches!(status, EventStatus::Accepted | EventStatus::SoftFailed);
        let state_after = match (state_before, pdu.state_tuple()) {
            (Some(before), Some((event_type, state_key))) if takes_part => {
                let key = self.rooms.store.interner().intern_state_key(&self.rooms.store, &event_type, state_key)?;
                Some(self.trees.update(before, [(key, Some(nid))])?)
            }
            (before, _) => before,
        };
        let record = EventRecord {
            room: self.room.nid,
            event_id: pdu.event_id.clone(),
            status,
            depth: pdu.depth,
            redacted_because: None,
            state_before,
            state_after,
            auth_events,
            reason,
            sent_by,
        };
        let mut pdu = pdu;
        if pdu.rejected != (status == EventStatus::Rejected) {
            let mut marked = (*pdu).clone();
            marked.rejected = status == EventStatus::Rejected;
            pdu = Arc::new(marked);
        }
        let mut event = Event { nid, record, pdu };
        if self.get_settled(&event.pdu.event_id)?.is_none() {
            // Messages are in no state and nobody's auth events: the index can do without them.
            if event.pdu.is_state() {
                self.chains.add(nid, &event.record.auth_events)?;
            }
            self.batch.put(&EVENT_NIDS, &event.pdu.event_id, &nid);
            for prev in &event.pdu.prev_events {
                self.batch.put(&NEXT_EVENTS, &(prev.clone(), nid), &());
            }
        }
        put_relationship(&mut self.batch, &event);
        // What is just being made here has been redacted by nobody.
        if relay != Relay::Everyone {
            self.apply_pending_redaction(&mut event)?;
        }
        if let Some(because) = known.and_then(|known| known.record.redacted_because.clone()) {
            self.redact(&mut event, &because)?;
        }
        self.write_rows(&event);
        self.note_if_partial(&event);
        let event = Arc::new(event);
        self.remember(&event);

        if placement != Placement::Hidden {
            self.place(&event, placement)?;
        }
        // Also a soft-failed event leads into the history of those that come to build on it.
        if status == EventStatus::SoftFailed {
            self.note_missing_history(&event)?;
        }
        if placement == Placement::Live && status == EventStatus::Accepted {
            let is_new = relay == Relay::Everyone || !self.is_superseded(&event.pdu.event_id)?;
            self.advance(&event, is_new);
            let position = self.last_position.unwrap_or_default();
            if relay != Relay::Nobody {
                self.outgoing.push((position, nid, relay));
            }
        }
        if status == EventStatus::Accepted && event.pdu.kind == TimelineEventType::RoomRedaction {
            self.apply_redaction(&event)?;
        }
        Ok(event)
    }

    /// Replaces the current state, as resolved from the forward extremities.
    pub(crate) fn set_current_state(&mut self, root: StateRoot) {
        self.room.record.state = root;
    }

    /// Remembers the transaction that an event answers, so that a repetition gets the same event.
    pub(crate) fn put_transaction(&mut self, key: &(String, String, String, String), event_id: &EventId) {
        self.batch.put(&TRANSACTIONS, key, &event_id.to_string());
    }

    pub(crate) fn write_rows(&mut self, event: &Event) {
        self.batch.put(&EVENTS, &event.nid, &event.record);
        self.batch.put(&EVENT_JSON, &event.nid, &event.pdu.json().to_owned());
    }

    pub(crate) fn remember(&mut self, event: &Arc<Event>) {
        self.ids.insert(event.nid, event.pdu.event_id.clone());
        self.events.insert(event.pdu.event_id.clone(), event.clone());
    }

    /// Puts an event in timeline and topology, and keeps the graph's back edge.
    pub(crate) fn place(&mut self, event: &Event, placement: Placement) -> Result<(), RoomError> {
        let room = self.room.nid;
        let order = match placement {
            Placement::Live => {
                let position = self.batch.next_position();
                self.last_position = Some(position);
                self.batch.put(&TIMELINE, &(room, position), &event.nid);
                self.batch.put(&EVENT_LOG, &position, &event.nid);
                self.note_if_late((event.pdu.depth, Order::Live(position)), position)?;
                Order::Live(position)
            }
            _ => {
                let count = match self.backfilled {
                    Some(count) => count,
                    None => self.rooms.store.get(&BACKFILLED, &room)?.unwrap_or(0),
                } + 1;
                self.backfilled = Some(count);
                self.note_if_in_gap((event.pdu.depth, Order::Backfilled(count)))?;
                let position = self.batch.next_position();
                self.batch.put(&BACKFILL_LOG, &position, &event.nid);
                Order::Backfilled(count)
            }
        };
        self.batch.put(&TOPOLOGY, &(room, event.pdu.depth, order), &event.nid);
        put_sent_time(&mut self.batch, event, order);
        self.batch.put(&EVENT_ORDERS, &event.nid, &order);
        self.put_relations(event, order)?;
        self.note_missing_history(event)
    }

    /// Notes a live event that comes after deeper ones.
    fn note_if_late(&mut self, place: Place, position: Position) -> Result<(), RoomError> {
        let deepest = self.deepest_live_place()?.unwrap_or(place);
        if deepest > place {
            self.batch.put(&LATE_ARRIVALS, &(self.room.nid, position), &LateArrival { place, deepest });
        }
        self.deepest = Some(Some(deepest.max(place)));
        Ok(())
    }

    /// Notes a backfilled event that is no history from before this server's time, but fills a gap.
    fn note_if_in_gap(&mut self, place: Place) -> Result<(), RoomError> {
        let first = self.rooms.get_first_place(self.room.nid)?;
        let deepest = self.deepest_live_place()?;
        if let (Some(first), Some(deepest)) = (first, deepest)
            && place > first
        {
            let position = self.batch.next_position();
            self.batch.put(&LATE_ARRIVALS, &(self.room.nid, position), &LateArrival { place, deepest });
        }
        Ok(())
    }

    fn deepest_live_place(&mut self) -> Result<Option<Place>, StoreError> {
        if let Some(deepest) = self.deepest {
            return Ok(deepest);
        }
        let known = self.rooms.heads.get(self.room.nid).and_then(|head| head.deepest);
        let deepest = match known {
            Some(place) if !self.has_unplaced => Some(place),
            _ => self.rooms.get_deepest_live_place(self.room.nid)?,
        };
        self.deepest = Some(deepest);
        Ok(deepest)
    }

    /// Keeps the graph's back edge: what history is missing before the event.
    fn note_missing_history(&mut self, event: &Event) -> Result<(), RoomError> {
        let room = self.room.nid;
        let as_extremity = (room, event.pdu.event_id.clone());
        if self.missing.remove(&event.pdu.event_id)
            || self.rooms.store.contains(&BACKWARD_EXTREMITIES, &as_extremity)?
        {
            self.batch.delete(&BACKWARD_EXTREMITIES, &as_extremity);
        }
        for prev in &event.pdu.prev_events {
            let known = self.get_event(prev)?;
            if known.is_none_or(|known| known.record.status == EventStatus::Outlier) {
                self.batch.put(&BACKWARD_EXTREMITIES, &(room, prev.clone()), &event.pdu.depth);
                self.missing.insert(prev.clone());
            }
        }
        Ok(())
    }

    // Redactions.

    fn may_redact(&self, redaction: &Event, target: &Event) -> Result<bool, RoomError> {
        if target.record.room != self.room.nid {
            return Ok(false);
        }
        if !self.room.rules.authorization.special_case_room_redaction {
            let Some(root) = redaction.record.state_before else { return Ok(false) };
            let Some(levels) = self.get_power_levels(root)? else { return Ok(false) };
            return Ok(levels.can_redact(&redaction.pdu.sender, &target.pdu.sender));
        }
        // Versions 1 and 2 judge redactions in their authorization rules.
        Ok(true)
    }

    fn apply_redaction(&mut self, redaction: &Event) -> Result<(), RoomError> {
        let Some(target_id) = redaction.pdu.redaction_target(&self.room.rules).cloned() else { return Ok(()) };
        let Some(target) = self.get_event(&target_id)? else {
            self.batch.put(&PENDING_REDACTIONS, &(target_id, redaction.nid), &());
            return Ok(());
        };
        if !self.may_redact(redaction, &target)? {
            return Ok(());
        }
        let mut redacted = (*target).clone();
        self.redact(&mut redacted, &redaction.pdu.event_id)?;
        self.write_rows(&redacted);
        let redacted = Arc::new(redacted);
        self.remember(&redacted);
        self.rewrite_member(&redacted)
    }

    fn apply_pending_redaction(&mut self, event: &mut Event) -> Result<(), RoomError> {
        let pending: Vec<_> = self
            .rooms
            .store
            .scan(&PENDING_REDACTIONS, &(event.pdu.event_id.clone(),), Direction::Forward)
            .map(|row| row.map(|((_, redaction), ())| redaction))
            .collect::<Result<_, _>>()?;
        for nid in pending {
            if let Some(redaction) = self.get_event_by_nid(nid)?
                && self.may_redact(&redaction, event)?
            {
                self.redact(event, &redaction.pdu.event_id)?;
            }
            self.batch.delete(&PENDING_REDACTIONS, &(event.pdu.event_id.clone(), nid));
        }
        Ok(())
    }

    fn redact(&mut self, event: &mut Event, because: &EventId) -> Result<(), RoomError> {
        if event.record.redacted_because.is_some() {
            return Ok(());
        }
        self.delete_relations(event)?;
        event.record.redacted_because = Some(because.to_owned());
        let redacted = event
            .pdu
            .redacted(&self.room.rules)
            .map_err(|error| RoomError::broken(format!("redacting {}: {error}", event.pdu.event_id)))?;
        event.pdu = Arc::new(redacted);
        Ok(())
    }

    /// A member event that is in force was redacted: its name and picture go from the member rows too.
    fn rewrite_member(&mut self, event: &Event) -> Result<(), RoomError> {
        let Some((StateEventType::RoomMember, user)) = event.pdu.state_tuple() else { return Ok(()) };
        let Ok(user) = UserId::parse(user) else { return Ok(()) };
        let Some(mut stored) = self.rooms.get_member(self.room.nid, &user)? else { return Ok(()) };
        if stored.value.event == Some(event.nid) {
            stored.value.display_name = None;
            stored.value.avatar_url = None;
            self.put_member_rows(&user, &stored);
        }
        Ok(())
    }

    fn put_member_rows(&mut self, user: &OwnedUserId, member: &Stamped<MemberRecord>) {
        self.batch.put(&MEMBERS, &(self.room.nid, user.clone()), member);
        if self.rooms.is_local(user) {
            self.batch.put(&USER_ROOMS, &(user.clone(), self.room.nid), member);
        }
    }

    // The end.

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
            None => Arc::new(self.rooms.get_joined_servers(room)?.into_iter().collect()),
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
            for server in servers_before.union(&servers_after).chain(&concerned).collect::<BTreeSet<_>>() {
                let handed_over_by = matches!(&relay, Relay::EveryoneBut(but) if but == server);
                if *server != self.rooms.server_name
                    && !handed_over_by
                    && self.rooms.gate.is_allowed(server)
                    && !(servers_after.contains(server) && self.is_caught_up_later(server)?)
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
        self.trees.put_into(&mut self.batch);
        self.chains.put_into(&mut self.batch);
        let known = self.deepest.or_else(|| Some(self.rooms.heads.get(room)?.deepest)).flatten();
        let head = Head { deepest: known.filter(|_| !self.has_unplaced), servers: servers_after };
        Ok((self.batch, Closed { room, head, events: self.events.into_values().collect() }))
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

    /// Writes the flat current state, and members, rooms and servers that follow from it.
    fn derive(
        &mut self,
        changes: Vec<StateChange>,
        position: Position,
        servers: &mut BTreeSet<OwnedServerName>,
    ) -> Result<(), RoomError> {
        let room = self.room.nid;
        let mut joined_delta: BTreeMap<OwnedServerName, i64> = BTreeMap::new();
        for StateChange { key, old, new } in changes {
            match new {
                Some(nid) => self.batch.put(&CURRENT_STATE, &(room, key), &nid),
                None => self.batch.delete(&CURRENT_STATE, &(room, key)),
            }
            let store = &self.rooms.store;
            let user = match store.interner().get_state_key_parts(store, key)? {
                Some((StateEventType::RoomMember, user)) => user,
                Some((StateEventType::SpaceChild, child)) => {
                    put_space_child(&mut self.batch, room, &child, new);
                    continue;
                }
                _ => continue,
            };
            let Ok(user) = UserId::parse(&user) else { continue };
            let old_membership = match old {
                Some(nid) => self.get_event_by_nid(nid)?.map(|event| member_record(&event).membership),
                None => None,
            };
            let was_joined = old_membership.as_deref() == Some("join");
            let Some(new) = new else {
                self.batch.delete(&MEMBERS, &(room, user.clone()));
                self.batch.delete(&USER_ROOMS, &(user.clone(), room));
                self.batch.wake(Topic::User(user.clone()));
                *joined_delta.entry(user.server_name().to_owned()).or_default() -= i64::from(was_joined);
                continue;
            };
            let Some(event) = self.get_event_by_nid(new)? else {
                return Err(RoomError::broken(format!("state of room {room} names event {new}, which is not stored")));
            };
            let member = Stamped { position, value: member_record(&event) };
            let is_joined = member.value.membership == "join";
            *joined_delta.entry(user.server_name().to_owned()).or_default() +=
                i64::from(is_joined) - i64::from(was_joined);
            self.put_member_rows(&user, &member);
            if self.rooms.is_local(&user) {
                self.derive_for_local_user(&user, &member.value, position)?;
            }
        }
        self.put_server_rows(joined_delta, servers)
    }

    /// Writes how many users of each server are joined now.
    fn put_server_rows(
        &mut self,
        mut joined_delta: BTreeMap<OwnedServerName, i64>,
        servers: &mut BTreeSet<OwnedServerName>,
    ) -> Result<(), RoomError> {
        let room = self.room.nid;
        for server in std::mem::take(&mut self.touched_servers) {
            joined_delta.entry(server).or_default();
        }
        for (server, delta) in joined_delta {
            let before = self.rooms.store.get(&JOINED_SERVERS, &(room, server.clone()))?.unwrap_or(0);
            let after = before.saturating_add_signed(delta);
            if after > 0 || self.said_servers.contains(&server) {
                self.batch.put(&JOINED_SERVERS, &(room, server.clone()), &after);
                self.batch.put(&SERVER_ROOMS, &(server.clone(), room), &());
                servers.insert(server);
            } else {
                self.batch.delete(&JOINED_SERVERS, &(room, server.clone()));
                self.batch.delete(&SERVER_ROOMS, &(server.clone(), room));
                servers.remove(&server);
            }
        }
        Ok(())
    }

    fn derive_for_local_user(
        &mut self,
        user: &OwnedUserId,
        member: &MemberRecord,
        position: Position,
    ) -> Result<(), RoomError> {
        let room = self.room.nid;
        self.batch.put(&MEMBERSHIP_LOG, &(user.clone(), position), &room);
        self.batch.wake(Topic::User(user.clone()));
        match member.membership.as_str() {
            "invite" | "knock" => {
                let stripped = self.stripped_state(self.room.record.state)?;
                self.batch.put(&STRIPPED_STATE, &(user.clone(), room), &Json(stripped));
                self.batch.delete(&FORGOTTEN, &(user.clone(), room));
            }
            "join" => {
                self.batch.delete(&STRIPPED_STATE, &(user.clone(), room));
                self.batch.delete(&FORGOTTEN, &(user.clone(), room));
            }
            _ => {}
        }
        Ok(())
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
        for Closed { room, head, events } in rooms {
            self.cache.replace(events);
            self.heads.put(room, head);
        }
        Ok(ticket)
    }
}

/// Puts an event among those of its room by the time it says it was sent at.
pub(crate) fn put_sent_time(batch: &mut Batch, event: &Event, order: Order) {
    let sent_at = event.pdu.origin_server_ts.get().into();
    batch.put(&SENT_TIMES, &(event.record.room, sent_at, event.pdu.depth, order), &event.nid);
}

/// Puts the current `m.space.child` event of a state key among the room's, or takes it out.
pub(crate) fn put_space_child(batch: &mut Batch, room: RoomNid, child: &str, event: Option<EventNid>) {
    let Some(child) = RoomId::parse(child).ok().filter(|child| !child.as_str().contains('\0')) else { return };
    match event {
        Some(nid) => batch.put(&SPACE_CHILDREN, &(room, child), &nid),
        None => batch.delete(&SPACE_CHILDREN, &(room, child)),
    }
}

/// What the member rows keep of a member event.
pub(crate) fn member_record(event: &Event) -> MemberRecord {
    #[derive(Deserialize, Default)]
    struct Profile {
        #[serde(default)]
        displayname: Option<serde_json::Value>,
        #[serde(default)]
        avatar_url: Option<serde_json::Value>,
    }
    let text = |value: Option<serde_json::Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    let profile: Profile = event.pdu.get_content().unwrap_or_default();
    MemberRecord {
        membership: event.pdu.membership().map_or_else(|| "leave".to_owned(), |membership| membership.to_string()),
        event: Some(event.nid),
        event_id: event.pdu.event_id.clone(),
        sender: event.pdu.sender.clone(),
        display_name: text(profile.displayname),
        avatar_url: text(profile.avatar_url),
    }
}
