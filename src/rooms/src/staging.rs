//! One batch of a room taking form: events, the state after them, indexes, extremities, outgoing rows.
//!
//! A [`Staging`] is made under the room's write lock, sees its own events before they are stored, and ends in
//! [`Staging::enqueue`] ([`close`]). Everything that follows from a change of state (members, servers, the flat index) is derived there,
//! once, from the difference between the state before and after ([`derived`]). It decides nothing: whether an event is accepted is its
//! caller's business.

mod close;
mod derived;
mod place;
mod redactions;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use chappe_protocol::{pdu::Pdu, power::PowerLevels};
use chappe_store::{
    Batch, Domain, EventNid, Position, RoomNid, StoreError,
    tables::events::{EVENT_JSON, EVENT_NIDS, EVENTS, EventRecord, EventStatus, NEXT_EVENTS, SentBy, TRANSACTIONS},
};
use ruma::{
    EventId, OwnedEventId, OwnedServerName,
    events::{StateEventType, TimelineEventType},
};

pub(crate) use self::{
    derived::{member_record, put_space_child},
    place::put_sent_time,
};
use crate::{
    Event, Room, RoomError, Rooms,
    auth_chain::ChainBatch,
    permits::{Permit, Subject},
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
    /// It is being made here, and nobody has heard of it: no other event names or redacts it.
    pub(crate) is_new: bool,
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
    /// What the rules have allowed for this batch, and will for later ones.
    pub(crate) permits: Vec<(Subject, Permit)>,
    /// Content that the rules read may have gone.
    pub(crate) has_redacted_state: bool,
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
            permits: Vec::new(),
            has_redacted_state: false,
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

    /// The events that this batch has put.
    pub(crate) fn new_events(&self) -> impl Iterator<Item = &Event> {
        self.events.values().map(|event| &**event)
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
        let Decided { mut pdu, status, reason, state_before, placement, relay, sent_by, is_new } = decided;
        let known = if is_new { None } else { self.get_event(&pdu.event_id)? };
        let nid = match &known {
            Some(event) => event.nid,
            None => {
                let next = || self.rooms.store.interner().next_event();
                *self.ahead.nids.entry(pdu.event_id.clone()).or_insert_with(next)
            }
        };

        let mut known_auth_events = Vec::with_capacity(pdu.auth_events.len());
        for id in &pdu.auth_events {
            known_auth_events.extend(self.get_settled(id)?.filter(|event| event.pdu.is_state()));
        }
        if let Some(pdu) = Arc::get_mut(&mut pdu) {
            pdu.share_auth_ids(known_auth_events.iter().map(|event| event.pdu.event_id.clone()));
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
            auth_events: known_auth_events.iter().map(|event| event.nid).collect(),
            reason,
            sent_by,
        };
        if pdu.rejected != (status == EventStatus::Rejected) {
            let mut marked = (*pdu).clone();
            marked.rejected = status == EventStatus::Rejected;
            pdu = Arc::new(marked);
        }
        let mut event = Event { nid, record, pdu };
        if is_new || self.get_settled(&event.pdu.event_id)?.is_none() {
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
        if !is_new {
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
            self.note_missing_history(&event, is_new)?;
        }
        // Also a soft-failed event leads into the history of those that come to build on it.
        if status == EventStatus::SoftFailed {
            self.note_missing_history(&event, is_new)?;
        }
        if placement == Placement::Live && status == EventStatus::Accepted {
            let is_last = is_new || !self.is_superseded(&event.pdu.event_id)?;
            self.advance(&event, is_last);
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
}
