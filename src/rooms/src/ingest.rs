//! Receiving events from other servers: the full pipeline of checks, from raw text to a place in the room.
//!
//! Raw JSON -> [`Rooms::check_pdu`] (format, signatures, content hash) -> missing auth and prev events -> state before the event ->
//! [`Staging::append_received`] (authorization; rejected, soft-failed or accepted). Loops over what other servers say are bounded,
//! and nothing is recursive.
//!
//! Spec: Server-Server API, Checks performed on receipt of a PDU.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chappe_protocol::{
    auth, json,
    pdu::Pdu,
    redact,
    sign::{self, Verified},
};
use chappe_store::{CommitError, EventNid, StoreError, tables::events::EventStatus};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, ServerName,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    Event, RemoteError, Room, RoomError, Rooms, blocking,
    remote::MissingEvents,
    resolve::{ResolveContext, ResolveEvents, resolve_state},
    staging::{Ahead, Decided, Placement, Relay, Staging},
    state::{StateRoot, TreeBatch},
};

/// How many events one gap is filled with at a time.
const GAP_EVENTS_MAX: u32 = 20;
/// How many forward extremities the other server is told of.
const GAP_EARLIEST_MAX: usize = 100;
/// How many auth or state events are fetched one by one before the whole is asked for.
const SINGLE_FETCHES_MAX: usize = 50;

/// How many nodes of state trees go into one batch, if they go by themselves: up to 300 bytes each.
const NODES_MAX: usize = 1_000;

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

    /// Format, sender's server, signatures and content hash of an event said to be of this room.
    pub(crate) async fn check_pdu(&self, room: &Room, raw: &RawJsonValue) -> Result<Arc<Pdu>, RoomError> {
        let object = json::parse_strict(raw.get()).map_err(|error| RoomError::BadJson(error.to_string()))?;
        self.check_object(&room.id, &room.rules, object).await
    }

    pub(crate) async fn check_object(
        &self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        mut object: CanonicalJsonObject,
    ) -> Result<Arc<Pdu>, RoomError> {
        object.remove("unsigned");
        let pdu = Pdu::from_signed(&object, rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
        if pdu.room_id != room_id {
            return Err(RoomError::Invalid(format!("Event {} is of another room", pdu.event_id)));
        }
        if !self.gate.is_allowed(pdu.sender.server_name()) {
            return Err(RemoteError::Denied(pdu.sender.server_name().to_owned()).into());
        }
        match self.verify(&object, rules).await? {
            Verified::All => Ok(Arc::new(pdu)),
            Verified::Signatures => Ok(Arc::new(redacted(object, rules)?.1)),
        }
    }

    /// Verifies the signatures an event needs. Where its content hash does not fit, what comes back is its redacted form.
    pub(crate) async fn check_signatures(
        &self,
        mut object: CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<(CanonicalJsonObject, Pdu), RoomError> {
        object.remove("unsigned");
        if self.verify(&object, rules).await? == Verified::Signatures {
            return redacted(object, rules);
        }
        let pdu = Pdu::from_signed(&object, rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
        Ok((object, pdu))
    }

    async fn verify(&self, object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Verified, RoomError> {
        let sent_at = match object.get("origin_server_ts") {
            Some(CanonicalJsonValue::Integer(sent_at)) => u64::try_from(i64::from(*sent_at)).unwrap_or(0),
            _ => return Err(RoomError::BadJson("The event has no origin_server_ts".to_owned())),
        };
        let sent_at = MilliSecondsSinceUnixEpoch(ruma::UInt::new_saturating(sent_at));
        let keys = self.remote.fetch_keys_for_event(object, rules, sent_at).await?;
        sign::verify_event(object, rules, &keys).map_err(|error| RoomError::Forbidden(format!("Signatures: {error}")))
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

    /// Asks for the events between what is known and an event that names unknown ones, and takes them in. Answers those of servers that are
    /// not federated with, which are passed over.
    async fn fill_gap(
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

    // Auth events.

    /// Makes sure that an event's auth events are known, as outliers if need be.
    async fn fetch_missing_auth_events(&self, origin: &ServerName, room: &Room, pdu: &Pdu) -> Result<(), RoomError> {
        let missing = self.unknown_of(&pdu.auth_events)?;
        if missing.is_empty() {
            return Ok(());
        }
        match self.remote.fetch_event_auth(origin, &room.id, &pdu.event_id).await {
            Ok(events) => self.store_outliers(room, events).await?,
            Err(error) => tracing::info!(%error, event.id = %pdu.event_id, server = %origin, "auth chain not had"),
        }
        self.fetch_single_events(origin, room, missing).await?;
        match self.unknown_of(&pdu.auth_events)?.first() {
            None => Ok(()),
            Some(unknown) => Err(RoomError::Invalid(format!("Auth event {unknown} could not be had"))),
        }
    }

    pub(crate) fn unknown_of(&self, ids: &[OwnedEventId]) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut unknown = Vec::new();
        for id in ids {
            if !self.is_settled(id)? {
                unknown.push(id.clone());
            }
        }
        Ok(unknown)
    }

    /// Whether an event is known with its auth chain: not merely by an out-of-band invite.
    fn is_settled(&self, id: &EventId) -> Result<bool, RoomError> {
        match self.get_event(id)? {
            Some(event) => Ok(!event.pdu.is_state() || self.chains.contains(event.nid)?),
            None => Ok(false),
        }
    }

    /// Fetches events, and the auth events they turn out to need, one by one.
    pub(crate) async fn fetch_single_events(
        &self,
        origin: &ServerName,
        room: &Room,
        mut wanted: Vec<OwnedEventId>,
    ) -> Result<(), RoomError> {
        let mut fetched = Vec::new();
        let mut asked = HashSet::new();
        while let Some(id) = wanted.pop() {
            if asked.len() >= SINGLE_FETCHES_MAX || self.is_settled(&id)? || !asked.insert(id.clone()) {
                continue;
            }
            match self.remote.fetch_event(origin, &id).await {
                Ok(raw) => match self.check_pdu(room, &raw).await {
                    Ok(pdu) if pdu.event_id == id => {
                        wanted.extend(pdu.auth_events.iter().cloned());
                        fetched.push(pdu);
                    }
                    Ok(_) => tracing::info!(event.id = %id, server = %origin, "asked for one event, was given another"),
                    Err(error) => tracing::info!(%error, event.id = %id, server = %origin, "fetched event is bad"),
                },
                Err(error) => tracing::info!(%error, event.id = %id, server = %origin, "event not had"),
            }
        }
        self.store_checked_outliers(room, fetched).await
    }

    /// Stores events whose place in the graph is not looked at, those of them that pass their checks.
    pub(crate) async fn store_outliers(&self, room: &Room, events: Vec<Box<RawJsonValue>>) -> Result<(), RoomError> {
        let mut checked = Vec::new();
        for raw in events {
            match self.check_pdu(room, &raw).await {
                Ok(pdu) => checked.push(pdu),
                Err(error) => tracing::info!(%error, room.id = %room.id, "event of an auth chain or state is bad"),
            }
        }
        self.store_checked_outliers(room, checked).await
    }

    pub(crate) async fn store_checked_outliers(&self, room: &Room, events: Vec<Arc<Pdu>>) -> Result<(), RoomError> {
        if events.is_empty() {
            return Ok(());
        }
        let _writing = self.locks.write(&room.id).await;
        let mut staging = Staging::begin(self, self.require_room(&room.id)?)?;
        staging.put_outliers(events)?;
        let ticket = staging.enqueue()?;
        drop(_writing);
        ticket.durable().await?;
        Ok(())
    }

    // State before.

    async fn state_before(&self, origin: &ServerName, room: &Room, pdu: &Pdu) -> Result<StateRoot, RoomError> {
        let mut roots = Vec::new();
        for prev in &pdu.prev_events {
            let known = match self.get_event(prev)?.and_then(|event| event.record.state_after) {
                Some(root) => Some(root),
                None => self.get_fetched_state(room.nid, prev)?,
            };
            roots.push(match known {
                Some(root) => root,
                None => {
                    let root = self.fetch_state_after(origin, room, prev).await?;
                    self.note_fetched_state(room.nid, prev, root)?;
                    root
                }
            });
        }
        roots.sort_unstable();
        roots.dedup();
        if let [root] = roots.as_slice() {
            return Ok(*root);
        }
        let (rooms, room) = (self.clone(), room.clone());
        let resolve = move || {
            let mut staging = Staging::begin(&rooms, room)?;
            let root = staging.resolve(roots)?;
            rooms.store_trees(staging.trees)?;
            Ok(root)
        };
        blocking(resolve).await
    }

    /// Stores new state tree nodes by themselves: they are content-addressed, and harmless where nothing comes to name them.
    pub(crate) fn store_trees(&self, trees: TreeBatch) -> Result<(), RoomError> {
        for batch in trees.into_batches(NODES_MAX) {
            let _later = self.store.enqueue(batch)?;
        }
        Ok(())
    }

    /// The state after an event that is not known here, as another server tells it.
    async fn fetch_state_after(
        &self,
        origin: &ServerName,
        room: &Room,
        event_id: &EventId,
    ) -> Result<StateRoot, RoomError> {
        let (state, auth_chain) = self.remote.fetch_state_ids(origin, &room.id, event_id).await?;
        let mut wanted: Vec<_> = state.clone();
        wanted.push(event_id.to_owned());
        wanted.extend(auth_chain);
        let missing = self.unknown_of(&wanted)?;
        if missing.len() > SINGLE_FETCHES_MAX {
            self.fetch_and_store_state(origin, room, event_id).await?;
            self.fetch_single_events(origin, room, vec![event_id.to_owned()]).await?;
        } else {
            self.fetch_single_events(origin, room, missing).await?;
        }
        let mut trees = self.trees.begin(room.nid);
        let mut entries = Vec::new();
        let ids = state.iter().map(|id| &**id).chain([event_id]);
        for id in ids {
            let Some(event) = self.get_event(id)? else {
                if id == event_id && !self.is_of_denied_server(origin, room, id).await? {
                    return Err(RoomError::Invalid(format!("Event {id} could not be had")));
                }
                continue;
            };
            if event.is_rejected() || event.record.room != room.nid {
                continue;
            }
            if let Some((event_type, state_key)) = event.pdu.state_tuple() {
                entries.push((self.store.interner().intern_state_key(&self.store, &event_type, state_key)?, event.nid));
            }
        }
        let root = trees.build(entries)?;
        self.store_trees(trees)?;
        Ok(root)
    }
}

fn redacted(object: CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(CanonicalJsonObject, Pdu), RoomError> {
    let object = redact::redact_object(object, rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
    let pdu = Pdu::from_signed(&object, rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
    Ok((object, pdu))
}

/// The id of an event whose sender's server is not federated with: nothing else of it is looked at.
fn denied_event_id(room: &Room, raw: &RawJsonValue) -> Option<OwnedEventId> {
    Some(Pdu::from_object(json::parse_strict(raw.get()).ok()?, &room.rules).ok()?.event_id)
}

impl Staging {
    /// Judges and stores an event all of whose prev and auth events are known.
    pub(crate) fn append_received(&mut self, pdu: Arc<Pdu>, relay: Relay) -> Result<Arc<Event>, RoomError> {
        let mut roots = Vec::new();
        for prev in &pdu.prev_events {
            let state = self.get_event(prev)?.and_then(|event| event.record.state_after);
            roots.push(state.ok_or_else(|| RoomError::Invalid(format!("Prev event {prev} is not known")))?);
        }
        let state_before = self.resolve(roots)?;
        self.append_judged(pdu, state_before, Placement::Live, relay)
    }

    pub(crate) fn append_judged(
        &mut self,
        pdu: Arc<Pdu>,
        state_before: StateRoot,
        placement: Placement,
        relay: Relay,
    ) -> Result<Arc<Event>, RoomError> {
        let verdict = self.judge(&pdu, state_before, placement)?;
        let placement = if verdict.0 == EventStatus::Accepted { placement } else { Placement::Hidden };
        let (status, reason) = verdict;
        let event = self.put_event(Decided {
            pdu,
            status,
            reason,
            state_before: Some(state_before),
            placement,
            relay,
            sent_by: None,
        })?;
        if event.is_accepted() && placement == Placement::Live {
            self.resolve_current_state()?;
        }
        Ok(event)
    }

    /// The three authorization checks of an event on receipt: against its auth events, the state before it, the current state.
    pub(crate) fn judge(
        &mut self,
        pdu: &Arc<Pdu>,
        state_before: StateRoot,
        placement: Placement,
    ) -> Result<(EventStatus, Option<String>), RoomError> {
        if let Err(rejection) = self.check_against_auth_events(pdu) {
            return Ok((EventStatus::Rejected, Some(format!("by its auth events: {rejection}"))));
        }
        let is_partial = self.room.record.partial_state;
        let state_before = if is_partial { self.with_auth_events(state_before, pdu)? } else { state_before };
        let rules = &self.room.rules;
        let by_root = |root: StateRoot| {
            auth::check_state_dependent(rules, pdu, |event_type, state_key| {
                self.get_from_root(root, event_type, state_key).ok().flatten().map(|event| event.pdu.clone())
            })
        };
        if let Err(rejection) = by_root(state_before) {
            return Ok((EventStatus::Rejected, Some(format!("by the state before it: {rejection}"))));
        }
        // Whose membership is not known in full is not held against them.
        if placement == Placement::Live
            && !is_partial
            && let Err(rejection) = by_root(self.room.record.state)
        {
            return Ok((EventStatus::SoftFailed, Some(format!("by the current state: {rejection}"))));
        }
        if let Some(reason) = &self.not_recommended {
            return Ok((EventStatus::SoftFailed, Some(format!("not recommended by the policy server: {reason}"))));
        }
        Ok((EventStatus::Accepted, None))
    }

    pub(crate) fn check_against_auth_events(&self, pdu: &Arc<Pdu>) -> Result<(), RoomError> {
        let rules = &self.room.rules;
        let get = |id: &EventId| self.get_event(id).ok().flatten().map(|event| event.pdu.clone());
        auth::check_state_independent(rules, pdu, get)?;
        let mut state: HashMap<(StateEventType, String), Arc<Pdu>> = HashMap::new();
        let mut auth_events: Vec<_> = pdu.auth_events.iter().filter_map(|id| get(id)).collect();
        if !rules.event_format.allow_room_create_in_auth_events
            && let Ok(create) = EventId::parse(self.room.id.as_str().replacen('!', "$", 1))
        {
            auth_events.extend(get(&create));
        }
        for event in auth_events {
            if let Some((event_type, state_key)) = event.state_tuple() {
                state.insert((event_type, state_key.to_owned()), event.clone());
            }
        }
        auth::check_state_dependent(rules, pdu, |event_type, state_key| {
            state.get(&(event_type.clone(), state_key.to_owned())).cloned()
        })?;
        Ok(())
    }

    /// Stores checked events as outliers, each after its auth events. Those whose auth events are not to be had are left out.
    pub(crate) fn put_outliers(&mut self, events: Vec<Arc<Pdu>>) -> Result<(), RoomError> {
        let mut waiting: HashMap<OwnedEventId, Arc<Pdu>> = HashMap::new();
        for pdu in events {
            if self.get_settled(&pdu.event_id)?.is_none() {
                waiting.insert(pdu.event_id.clone(), pdu);
            }
        }
        // Auth events first: repeatedly follow an event's waiting auth events down, and store on the way back.
        let mut roots: Vec<OwnedEventId> = waiting.keys().cloned().collect();
        // The create event first: every event needs it, and from version 12 none names it.
        roots.sort_by_key(|id| waiting.get(id).is_some_and(|pdu| pdu.kind == TimelineEventType::RoomCreate));
        let mut open: HashSet<OwnedEventId> = HashSet::new();
        while let Some(id) = roots.pop() {
            let Some(pdu) = waiting.get(&id).cloned() else { continue };
            let first: Vec<_> = pdu
                .auth_events
                .iter()
                .filter(|auth| waiting.contains_key(*auth) && !open.contains(*auth))
                .cloned()
                .collect();
            if !first.is_empty() && open.insert(id.clone()) {
                roots.push(id);
                roots.extend(first);
                continue;
            }
            waiting.remove(&id);
            self.put_outlier(pdu)?;
        }
        Ok(())
    }

    fn put_outlier(&mut self, pdu: Arc<Pdu>) -> Result<(), RoomError> {
        for id in &pdu.auth_events {
            if self.get_settled(id)?.is_none() {
                tracing::debug!(event.id = %pdu.event_id, auth_event.id = %id, "outlier left out: auth event missing");
                return Ok(());
            }
        }
        let (status, reason) = match self.check_against_auth_events(&pdu) {
            Ok(()) => (EventStatus::Outlier, None),
            Err(rejection) => (EventStatus::Rejected, Some(rejection.to_string())),
        };
        self.put_event(Decided {
            pdu,
            status,
            reason,
            state_before: None,
            placement: Placement::Hidden,
            relay: Relay::Nobody,
            sent_by: None,
        })?;
        Ok(())
    }

    pub(crate) fn resolve(&mut self, mut roots: Vec<StateRoot>) -> Result<StateRoot, RoomError> {
        roots.sort_unstable();
        roots.dedup();
        if let [root] = roots.as_slice() {
            return Ok(*root);
        }
        if let Some(root) = self.ahead.resolved.get(&roots) {
            return Ok(*root);
        }
        let context = ResolveContext {
            store: &self.rooms.store,
            rules: &self.room.rules,
            trees: &self.trees,
            chains: &self.chains,
            events: &*self,
        };
        let resolved = resolve_state(&context, &roots)?;
        let root = resolved.apply(&mut self.trees)?;
        self.ahead.resolved.insert(roots, root);
        Ok(root)
    }

    /// The current state, from the forward extremities.
    pub(crate) fn resolve_current_state(&mut self) -> Result<(), RoomError> {
        let roots = self.roots_after(&self.room.record.forward_extremities)?;
        let root = self.resolve(roots)?;
        self.set_current_state(root);
        Ok(())
    }

    pub(crate) fn roots_after(
        &self,
        extremities: &[(EventNid, OwnedEventId, u64)],
    ) -> Result<Vec<StateRoot>, RoomError> {
        let mut roots = Vec::with_capacity(extremities.len());
        for (nid, id, _) in extremities {
            let state = self.get_event_by_nid(*nid)?.and_then(|event| event.record.state_after);
            roots.push(state.ok_or_else(|| RoomError::broken(format!("forward extremity {id} has no state")))?);
        }
        Ok(roots)
    }
}

impl ResolveEvents for Staging {
    fn get_pdu(&self, event: EventNid) -> Result<Option<Arc<Pdu>>, StoreError> {
        Ok(self.get_event_by_nid(event)?.map(|event| event.pdu.clone()))
    }

    fn get_pdu_by_id(&self, event_id: &EventId) -> Result<Option<(EventNid, Arc<Pdu>)>, StoreError> {
        Ok(self.get_event(event_id)?.map(|event| (event.nid, event.pdu.clone())))
    }
}
