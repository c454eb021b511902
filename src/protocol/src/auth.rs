//! Authorization rules: may this event be in this room, seen from a given state?
//!
//! A thin face over ruma's rules, which quote the specification line by line. Nothing here fetches: events and
//! state come from closures over memory. Signatures are checked before, in [`crate::sign`]; the caller also
//! decides which states to ask about (auth events, state before, current state) and what a refusal means
//! (rejected or soft-failed).

use std::sync::Arc;

use ruma::{
    EventId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res,
};
use serde_json::value::RawValue as RawJsonValue;

use crate::pdu::Pdu;

/// Why the rules refuse an event, in words fit for a log or a client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejection(pub String);

/// The rules that need only the event and its auth events: the shape of create events, and for all others
/// that the auth events are known, of this room, accepted, expected and without duplicates.
///
/// In version 12 rooms `fetch` is also asked for the create event, whose id is the room id with a `$`.
///
/// Spec: Server-Server API, Checks performed on receipt of a PDU, step 4 (first part).
pub fn check_state_independent(
    rules: &RoomVersionRules,
    pdu: &Pdu,
    fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
) -> Result<(), Rejection> {
    state_res::check_state_independent_auth_rules(&rules.authorization, pdu, fetch)
        .map_err(Rejection)
}

/// The rules that need room state: membership, join rules, power levels.
///
/// `fetch_state` must know the create event under `(m.room.create, "")` in every version, including 12, where
/// it is not among the auth events.
///
/// Spec: room versions, Authorization rules.
pub fn check_state_dependent(
    rules: &RoomVersionRules,
    pdu: &Pdu,
    fetch_state: impl Fn(&StateEventType, &str) -> Option<Arc<Pdu>>,
) -> Result<(), Rejection> {
    state_res::check_state_dependent_auth_rules(&rules.authorization, pdu, fetch_state)
        .map_err(Rejection)
}

/// Which state an event must name in its `auth_events`.
///
/// Errors when the content of a membership event is too broken to tell.
///
/// Spec: Server-Server API, Auth events selection.
pub fn auth_types_for_event(
    rules: &RoomVersionRules,
    kind: &TimelineEventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawJsonValue,
) -> Result<Vec<(StateEventType, String)>, Rejection> {
    state_res::auth_types_for_event(kind, sender, state_key, content, &rules.authorization)
        .map_err(Rejection)
}
