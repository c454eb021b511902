//! The verdict on an event, by the states that it must stand before, and its place in the room.
//!
//! Spec: Server-Server API, Checks performed on receipt of a PDU.

use std::{collections::HashMap, sync::Arc};

use chappe_protocol::{auth, pdu::Pdu};
use chappe_store::{EventNid, StoreError, tables::events::EventStatus};
use ruma::{EventId, OwnedEventId, events::StateEventType};

use crate::{
    Event, RoomError,
    resolve::{ResolveContext, ResolveEvents, resolve_state},
    staging::{Decided, Placement, Relay, Staging},
    state::StateRoot,
};

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
            is_new: false,
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
