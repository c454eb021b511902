//! State resolution: one state out of several, the same on every server.
//!
//! Versions 2 (room versions 2 to 11) and 2.1 (room version 12) of the algorithm. Synchronous and bound to one
//! core: callers hand in closures over memory and run it off the async threads. An event `fetch` does not know
//! is left out of the resolution, so everything in the states and auth chains must be at hand.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, room_version_rules::RoomVersionRules, state_res};

use crate::pdu::Pdu;

pub use ruma::state_res::StateMap;

/// Why states could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The room version uses the first state resolution algorithm, which is not built.
    #[error("state resolution of this room version is not supported")]
    UnsupportedVersion,
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
/// Spec: room version 2, State resolution; room version 12, State resolution.
pub fn resolve(
    rules: &RoomVersionRules,
    state_maps: &[StateMap<OwnedEventId>],
    auth_chains: Vec<HashSet<OwnedEventId>>,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
    conflicted_subgraph: impl Fn(&HashSet<OwnedEventId>) -> Option<HashSet<OwnedEventId>>,
) -> Result<StateMap<OwnedEventId>, ResolveError> {
    let v2_rules = rules
        .state_res
        .v2_rules()
        .ok_or(ResolveError::UnsupportedVersion)?;
    let resolved = state_res::resolve(
        &rules.authorization,
        v2_rules,
        state_maps,
        auth_chains
            .into_iter()
            .map(|chain| chain.into_iter().collect())
            .collect(),
        fetch,
        |conflicted| {
            let events = conflicted.values().flatten().cloned().collect();
            conflicted_subgraph(&events).map(|subgraph| subgraph.into_iter().collect())
        },
    )?;
    Ok(resolved)
}

/// [`resolve`] with the subgraph walked through `fetch`.
pub fn resolve_walking(
    rules: &RoomVersionRules,
    state_maps: &[StateMap<OwnedEventId>],
    auth_chains: Vec<HashSet<OwnedEventId>>,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<StateMap<OwnedEventId>, ResolveError> {
    resolve(rules, state_maps, auth_chains, &fetch, |conflicted| {
        Some(conflicted_state_subgraph(conflicted, &fetch))
    })
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
            named_by
                .entry(auth_event.clone())
                .or_default()
                .push(event_id.clone());
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
