//! State resolution: one state out of several, the same on every server.
//!
//! Versions 2 (room versions 2 to 11) and 2.1 (room version 12) of the algorithm are ruma's; version 1 is in
//! `state_res_v1.rs`. Synchronous and bound to one
//! core: callers hand in closures over memory and run it off the async threads. An event `fetch` does not know
//! is left out of the resolution, so everything in the states and auth chains must be at hand.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, room_version_rules::RoomVersionRules, state_res};

use crate::{owned_state::Escaped, pdu::Pdu, state_res_v1};

pub use ruma::state_res::StateMap;

/// Why states could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The algorithm met an event it could not use.
    #[error(transparent)]
    Algorithm(#[from] state_res::Error),
}

/// Resolves several states of a room.
///
/// * `state_maps`: the states; keys whose value is the same in all may be left out except those that
///   authorization needs, and must then be put back by the caller.
/// * `auth_chains`: for each state, the full auth chain of its events. Only the difference matters, so
///   `[union minus intersection, empty]` gives the same result.
/// * `conflicted_subgraph`: asked once in room version 12, with the conflicted events; see
///   [`conflicted_state_subgraph`]. `None` fails the resolution.
///
/// Room version 1 needs neither auth chains nor subgraph.
///
/// Spec: room versions 1, 2 and 12, State resolution.
pub fn resolve(
    rules: &RoomVersionRules,
    state_maps: &[StateMap<OwnedEventId>],
    auth_chains: Vec<HashSet<OwnedEventId>>,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
    conflicted_subgraph: impl Fn(&HashSet<OwnedEventId>) -> Option<HashSet<OwnedEventId>>,
) -> Result<StateMap<OwnedEventId>, ResolveError> {
    let Some(v2_rules) = rules.state_res.v2_rules() else {
        return Ok(state_res_v1::resolve(rules, state_maps, fetch));
    };
    let escaped = Escaped::for_states(state_maps, &fetch);
    let resolved = state_res::resolve(
        &rules.authorization,
        v2_rules,
        &*escaped.states(state_maps),
        auth_chains.into_iter().map(|chain| chain.into_iter().collect()).collect(),
        |event_id| fetch(event_id).map(|pdu| escaped.event(pdu)),
        |conflicted| {
            let events = conflicted.values().flatten().cloned().collect();
            conflicted_subgraph(&events).map(|subgraph| subgraph.into_iter().collect())
        },
    )?;
    Ok(escaped.unescape(resolved))
}

/// [`resolve`] with the subgraph walked through `fetch`.
pub fn resolve_walking(
    rules: &RoomVersionRules,
    state_maps: &[StateMap<OwnedEventId>],
    auth_chains: Vec<HashSet<OwnedEventId>>,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<StateMap<OwnedEventId>, ResolveError> {
    resolve(rules, state_maps, auth_chains, &fetch, |conflicted| Some(conflicted_state_subgraph(conflicted, &fetch)))
}

/// The events on any path of auth edges from one conflicted event to another, both ends included.
///
/// Walks the auth chains of the conflicted events once, iteratively. Unknown events end their path.
///
/// Spec: room version 12, State resolution, Conflicted state subgraph.
pub fn conflicted_state_subgraph(
    conflicted: &HashSet<OwnedEventId>,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> HashSet<OwnedEventId> {
    // First backwards along auth edges, noting for each event who names it.
    let mut named_by: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
    let mut seen: HashSet<OwnedEventId> = conflicted.clone();
    let mut queue: Vec<OwnedEventId> = conflicted.iter().cloned().collect();
    while let Some(event_id) = queue.pop() {
        let Some(pdu) = fetch(&event_id) else {
            continue;
        };
        for auth_event in &pdu.auth_events {
            named_by.entry(auth_event.clone()).or_default().push(event_id.clone());
            if seen.insert(auth_event.clone()) {
                queue.push(auth_event.clone());
            }
        }
    }
    // Then forwards again from the conflicted events: whatever is met lies between two of them.
    let mut subgraph = conflicted.clone();
    let mut queue: Vec<OwnedEventId> = conflicted.iter().cloned().collect();
    while let Some(event_id) = queue.pop() {
        for child in named_by.get(&event_id).into_iter().flatten() {
            if subgraph.insert(child.clone()) {
                queue.push(child.clone());
            }
        }
    }
    subgraph
}

/// The full auth chain of a set of events, themselves not included unless one authorizes another.
///
/// Iterative. Unknown events are in the chain, and end it.
pub fn auth_chain<'a>(
    events: impl IntoIterator<Item = &'a OwnedEventId>,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> HashSet<OwnedEventId> {
    let mut chain = HashSet::new();
    let mut queue: Vec<OwnedEventId> = events.into_iter().cloned().collect();
    while let Some(event_id) = queue.pop() {
        let Some(pdu) = fetch(&event_id) else {
            continue;
        };
        for auth_event in &pdu.auth_events {
            if chain.insert(auth_event.clone()) {
                queue.push(auth_event.clone());
            }
        }
    }
    chain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::RoomVersionId;
    use serde_json::json;

    use super::*;
    use crate::test_room::{ALICE, BOB, CAROL, State, TestRoom, key};

    const VERSIONS: [RoomVersionId; 4] = [RoomVersionId::V2, RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12];

    fn resolve_in(room: &TestRoom, states: &[State]) -> State {
        let chains = states.iter().map(|state| room.auth_chain(state)).collect();
        resolve_walking(&room.rules, states, chains, |event_id| room.fetch(event_id)).unwrap()
    }

    #[test]
    fn equal_states_resolve_to_themselves() {
        for version in VERSIONS {
            let (room, state) = TestRoom::populated(version);
            assert_eq!(resolve_in(&room, &[state.clone(), state.clone()]), state);
        }
    }

    #[test]
    fn ban_wins_over_what_the_banned_user_did_meanwhile() {
        for version in VERSIONS {
            let (mut room, state) = TestRoom::populated(version.clone());
            let (mut banning, mut speaking) = (state.clone(), state.clone());
            room.add(&mut speaking, "m.room.topic", BOB, Some(""), json!({"topic": "mine"}));
            let ban = room.add(&mut banning, "m.room.member", ALICE, Some(BOB), json!({"membership": "ban"}));
            let resolved = resolve_in(&room, &[banning, speaking]);
            assert_eq!(resolved[&key("m.room.member", BOB)], ban, "{version}");
            assert!(!resolved.contains_key(&key("m.room.topic", "")), "{version}");
        }
    }

    #[test]
    fn higher_level_decides_concurrent_power_changes() {
        for version in VERSIONS {
            let (mut room, state) = TestRoom::populated(version.clone());
            let admin = !room.rules.authorization.explicitly_privilege_room_creators;
            let users = |bob: i64, carol: i64| {
                if admin { json!({ALICE: 100, BOB: bob, CAROL: carol}) } else { json!({BOB: bob, CAROL: carol}) }
            };
            let (mut of_bob, mut of_alice) = (state.clone(), state.clone());
            room.add(&mut of_bob, "m.room.power_levels", BOB, Some(""), json!({"users": users(50, 50)}));
            let demotion =
                room.add(&mut of_alice, "m.room.power_levels", ALICE, Some(""), json!({"users": users(0, 0)}));
            let resolved = resolve_in(&room, &[of_bob, of_alice]);
            assert_eq!(resolved[&key("m.room.power_levels", "")], demotion, "{version}");
        }
    }

    #[test]
    fn auth_difference_stands_in_for_full_chains() {
        let (mut room, state) = TestRoom::populated(RoomVersionId::V11);
        let (mut one, mut two) = (state.clone(), state);
        room.add(&mut one, "m.room.member", ALICE, Some(BOB), json!({"membership": "ban"}));
        room.add(&mut two, "m.room.join_rules", BOB, Some(""), json!({"join_rule": "invite"}));
        let expected = resolve_in(&room, &[one.clone(), two.clone()]);
        let (chain_one, chain_two) = (room.auth_chain(&one), room.auth_chain(&two));
        let difference = chain_one.symmetric_difference(&chain_two).cloned().collect();
        let resolved = resolve_walking(&room.rules, &[one, two], vec![difference, HashSet::new()], |event_id| {
            room.fetch(event_id)
        });
        assert_eq!(resolved.unwrap(), expected);
    }

    #[test]
    fn subgraph_holds_what_lies_between_conflicted_events() {
        let (mut room, mut state) = TestRoom::populated(RoomVersionId::V12);
        let first = state[&key("m.room.power_levels", "")].clone();
        let aside = state[&key("m.room.member", CAROL)].clone();
        let between = room.add(&mut state, "m.room.power_levels", ALICE, Some(""), json!({"users": {BOB: 60}}));
        let last = room.add(&mut state, "m.room.topic", BOB, Some(""), json!({"topic": "x"}));
        let conflicted = HashSet::from([first.clone(), last.clone()]);
        let subgraph = conflicted_state_subgraph(&conflicted, |event_id| room.fetch(event_id));
        assert!(subgraph.is_superset(&conflicted));
        assert!(subgraph.contains(&between));
        assert!(!subgraph.contains(&aside));
        assert!(!subgraph.contains(&state[&key("m.room.create", "")]));
        let alone = HashSet::from([last.clone()]);
        assert_eq!(conflicted_state_subgraph(&alone, |event_id| room.fetch(event_id)), alone);
        assert_eq!(conflicted_state_subgraph(&conflicted, |_| None), conflicted);
    }

    #[test]
    fn failing_to_find_the_subgraph_fails_version_12_only() {
        for (version, works) in [(RoomVersionId::V11, true), (RoomVersionId::V12, false)] {
            let (mut room, state) = TestRoom::populated(version);
            let mut other = state.clone();
            room.add(&mut other, "m.room.topic", ALICE, Some(""), json!({"topic": "x"}));
            let states = [state, other];
            let chains = states.iter().map(|state| room.auth_chain(state)).collect();
            let resolved = resolve(&room.rules, &states, chains, |event_id| room.fetch(event_id), |_| None);
            assert_eq!(resolved.is_ok(), works);
        }
    }

    /// Something one branch of the room did.
    #[derive(Clone, Debug)]
    enum Act {
        Topic(usize),
        Ban(usize, usize),
        Leave(usize),
        Join(usize),
        Levels(usize, i64, i64),
        JoinRule(usize, bool),
    }

    fn act() -> impl Strategy<Value = Act> {
        let user = 0..3usize;
        prop_oneof![
            user.clone().prop_map(Act::Topic),
            (user.clone(), user.clone()).prop_map(|(by, whom)| Act::Ban(by, whom)),
            user.clone().prop_map(Act::Leave),
            user.clone().prop_map(Act::Join),
            (user.clone(), 0..100i64, 0..100i64).prop_map(|(by, bob, carol)| Act::Levels(by, bob, carol)),
            (user, any::<bool>()).prop_map(|(by, public)| Act::JoinRule(by, public)),
        ]
    }

    const USERS: [&str; 3] = [ALICE, BOB, CAROL];

    /// Does it if the rules allow it in that branch.
    fn perform(room: &mut TestRoom, state: &mut State, act: &Act) {
        let (kind, by, state_key, content) = match *act {
            Act::Topic(by) => ("m.room.topic", by, "", json!({"topic": "t"})),
            Act::Ban(by, whom) => ("m.room.member", by, USERS[whom], json!({"membership": "ban"})),
            Act::Leave(by) => ("m.room.member", by, USERS[by], json!({"membership": "leave"})),
            Act::Join(by) => ("m.room.member", by, USERS[by], json!({"membership": "join"})),
            Act::Levels(by, bob, carol) if room.rules.authorization.explicitly_privilege_room_creators => {
                ("m.room.power_levels", by, "", json!({"users": {BOB: bob, CAROL: carol}}))
            }
            Act::Levels(by, bob, carol) => {
                ("m.room.power_levels", by, "", json!({"users": {ALICE: 100, BOB: bob, CAROL: carol}}))
            }
            Act::JoinRule(by, public) => {
                ("m.room.join_rules", by, "", json!({"join_rule": if public { "public" } else { "invite" }}))
            }
        };
        let pdu = room.make(state, kind, USERS[by], Some(state_key), content.clone());
        if room.check(&pdu, state).is_ok() {
            room.add(state, kind, USERS[by], Some(state_key), content);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn order_of_the_states_does_not_matter(
            branches in proptest::collection::vec(proptest::collection::vec(act(), 0..6), 2..4),
            new_version in any::<bool>(),
            rotation in 0..3usize,
        ) {
            let version = if new_version { RoomVersionId::V12 } else { RoomVersionId::V10 };
            let (mut room, state) = TestRoom::populated(version);
            let mut states = Vec::new();
            for acts in &branches {
                let mut branch = state.clone();
                for act in acts {
                    perform(&mut room, &mut branch, act);
                }
                states.push(branch);
            }
            let resolved = resolve_in(&room, &states);
            let mut reversed = states.clone();
            reversed.reverse();
            prop_assert_eq!(&resolve_in(&room, &reversed), &resolved);
            let middle = rotation % states.len();
            states.rotate_left(middle);
            prop_assert_eq!(&resolve_in(&room, &states), &resolved);
            // What every branch agrees on stays.
            for (key, event_id) in &resolved {
                if states.iter().all(|state| state.get(key) == states[0].get(key)) {
                    prop_assert_eq!(Some(event_id), states[0].get(key));
                }
            }
            let create = key("m.room.create", "");
            prop_assert_eq!(resolved.get(&create), states[0].get(&create));
        }
    }
}
