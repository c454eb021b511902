//! The first state resolution algorithm, of room version 1 only.
//!
//! It is known to bring old state back, which is why later rooms use another. It is here because rooms of that
//! version live on, and resolving them differently from their other servers would be worse. Reached through
//! [`crate::state_res::resolve`].

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, events::StateEventType, room_version_rules::RoomVersionRules, state_res::StateMap};
use sha1::{Digest, Sha1};

use crate::{auth, pdu::Pdu};

type Key = (StateEventType, String);

/// Resolves by depth: event types that decide about others first, each contender checked against what is
/// settled already.
///
/// Spec: room version 1, State resolution.
pub(crate) fn resolve(
    rules: &RoomVersionRules,
    state_maps: &[StateMap<OwnedEventId>],
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> StateMap<OwnedEventId> {
    let mut contenders: BTreeMap<Key, BTreeSet<&OwnedEventId>> = BTreeMap::new();
    for (key, event_id) in state_maps.iter().flatten() {
        contenders.entry(key.clone()).or_default().insert(event_id);
    }
    let mut resolved = StateMap::new();
    let mut conflicted: BTreeMap<Key, Vec<Arc<Pdu>>> = BTreeMap::new();
    for (key, events) in contenders {
        if let (1, Some(event_id)) = (events.len(), events.first()) {
            resolved.insert(key, (*event_id).clone());
        } else {
            conflicted.insert(key, events.into_iter().filter_map(|event_id| fetch(event_id)).collect());
        }
    }

    for kind in [StateEventType::RoomPowerLevels, StateEventType::RoomJoinRules, StateEventType::RoomMember] {
        // Contenders of one pass are judged by the passes before it, not by each other.
        let mut settled = Vec::new();
        for (key, events) in conflicted.iter().filter(|(key, _)| key.0 == kind) {
            if let Some(winner) = last_of_allowed_run(rules, &resolved, key, by_depth(events), &fetch) {
                settled.push((key.clone(), winner));
            }
        }
        conflicted.retain(|key, _| key.0 != kind);
        resolved.extend(settled);
    }
    let mut settled = Vec::new();
    for (key, events) in &conflicted {
        let ordered = by_depth(events);
        let allowed = ordered.iter().rev().find(|pdu| is_allowed(rules, &resolved, None, pdu, &fetch));
        // Where no contender passes, servers settle for the shallowest.
        if let Some(winner) = allowed.or(ordered.first()) {
            settled.push((key.clone(), winner.event_id.clone()));
        }
    }
    resolved.extend(settled);
    resolved
}

/// Ascending depth, then descending SHA-1 of the event id.
fn by_depth(events: &[Arc<Pdu>]) -> Vec<&Arc<Pdu>> {
    let mut ordered: Vec<_> = events.iter().collect();
    ordered.sort_by_cached_key(|pdu| (pdu.depth, Reverse(Sha1::digest(pdu.event_id.as_bytes()).to_vec())));
    ordered
}

/// Takes the first contender, and each next one as long as the one before allows it.
fn last_of_allowed_run(
    rules: &RoomVersionRules,
    resolved: &StateMap<OwnedEventId>,
    key: &Key,
    ordered: Vec<&Arc<Pdu>>,
    fetch: &impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Option<OwnedEventId> {
    let mut ordered = ordered.into_iter();
    let mut winner = ordered.next()?;
    for pdu in ordered {
        if !is_allowed(rules, resolved, Some((key, winner)), pdu, fetch) {
            break;
        }
        winner = pdu;
    }
    Some(winner.event_id.clone())
}

fn is_allowed(
    rules: &RoomVersionRules,
    resolved: &StateMap<OwnedEventId>,
    on_top: Option<(&Key, &Arc<Pdu>)>,
    pdu: &Pdu,
    fetch: &impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> bool {
    auth::check_state_dependent(rules, pdu, |kind, state_key| {
        let key = (kind.clone(), state_key.to_owned());
        match on_top {
            Some((top_key, top)) if *top_key == key => Some(top.clone()),
            _ => fetch(resolved.get(&key)?),
        }
    })
    .is_ok()
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::json;

    use crate::{
        state_res::resolve_walking,
        test_room::{ALICE, BOB, CAROL, State, TestRoom, key},
    };

    fn resolve(room: &TestRoom, states: &[State]) -> State {
        resolve_walking(&room.rules, states, Vec::new(), |event_id| room.fetch(event_id)).unwrap()
    }

    fn both_ways(room: &TestRoom, one: &State, two: &State) -> State {
        let resolved = resolve(room, &[one.clone(), two.clone()]);
        assert_eq!(resolve(room, &[two.clone(), one.clone()]), resolved);
        resolved
    }

    #[test]
    fn state_missing_on_one_side_is_no_conflict() {
        let (mut room, state) = TestRoom::populated(RoomVersionId::V1);
        let mut other = state.clone();
        let topic = room.add(&mut other, "m.room.topic", ALICE, Some(""), json!({"topic": "t"}));
        assert_eq!(both_ways(&room, &state, &other)[&key("m.room.topic", "")], topic);
    }

    #[test]
    fn deepest_allowed_event_wins() {
        let (mut room, state) = TestRoom::populated(RoomVersionId::V1);
        let (mut one, mut two) = (state.clone(), state);
        room.add(&mut one, "m.room.topic", BOB, Some(""), json!({"topic": "shallow"}));
        let deep = room.add(&mut two, "m.room.topic", BOB, Some(""), json!({"topic": "deep"}));
        assert_eq!(both_ways(&room, &one, &two)[&key("m.room.topic", "")], deep);
        let not_allowed = room.add(&mut one, "m.room.topic", CAROL, Some(""), json!({"topic": "no right"}));
        let resolved = both_ways(&room, &one, &two);
        assert_ne!(resolved[&key("m.room.topic", "")], not_allowed);
        assert_eq!(resolved[&key("m.room.topic", "")], deep);
    }

    #[test]
    fn ban_is_settled_before_what_the_banned_user_set() {
        let (mut room, mut state) = TestRoom::populated(RoomVersionId::V1);
        let topic = room.add(&mut state, "m.room.topic", ALICE, Some(""), json!({"topic": "agreed"}));
        let (mut banning, mut speaking) = (state.clone(), state);
        room.add(&mut speaking, "m.room.topic", BOB, Some(""), json!({"topic": "mine"}));
        let ban = room.add(&mut banning, "m.room.member", ALICE, Some(BOB), json!({"membership": "ban"}));
        let resolved = both_ways(&room, &banning, &speaking);
        assert_eq!(resolved[&key("m.room.member", BOB)], ban);
        assert_eq!(resolved[&key("m.room.topic", "")], topic);
    }

    #[test]
    fn power_levels_advance_only_as_far_as_allowed() {
        let (mut room, state) = TestRoom::populated(RoomVersionId::V1);
        let (mut one, mut two) = (state.clone(), state);
        let demotion =
            room.add(&mut one, "m.room.power_levels", ALICE, Some(""), json!({"users": {ALICE: 100, BOB: 0}}));
        room.add(&mut two, "m.room.power_levels", BOB, Some(""), json!({"users": {ALICE: 100, BOB: 50, CAROL: 50}}));
        assert_eq!(both_ways(&room, &one, &two)[&key("m.room.power_levels", "")], demotion);
    }
}
