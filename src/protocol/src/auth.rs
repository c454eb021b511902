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

use crate::{owned_state, pdu::Pdu};

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
    state_res::check_state_independent_auth_rules(&rules.authorization, pdu, fetch).map_err(Rejection)
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
    let pdu = owned_state::judge(rules, pdu, &fetch_state)?;
    state_res::check_state_dependent_auth_rules(&rules.authorization, &*pdu, fetch_state).map_err(Rejection)
}

/// Whether the rules look at nothing of such an event but its sender and type, so that what they say of one, seen from a state, holds for
/// every other.
pub fn is_judged_by_type(kind: &TimelineEventType, state_key: Option<&str>) -> bool {
    use TimelineEventType as Type;
    let is_read = matches!(kind, Type::RoomCreate | Type::RoomMember | Type::RoomPowerLevels | Type::RoomRedaction);
    state_key.is_none() && !is_read
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
    state_res::auth_types_for_event(kind, sender, state_key, content, &rules.authorization).map_err(Rejection)
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::json;

    use super::*;
    use crate::test_room::{ALICE, BOB, CAROL, TestRoom, key};

    const VERSIONS: [RoomVersionId; 6] = [
        RoomVersionId::V1,
        RoomVersionId::V2,
        RoomVersionId::V3,
        RoomVersionId::V6,
        RoomVersionId::V11,
        RoomVersionId::V12,
    ];
    const DAVE: &str = "@dave:d.example";

    #[test]
    fn a_room_can_be_created_and_filled_in_every_version() {
        for version in VERSIONS {
            let (mut room, mut state) = TestRoom::new(version);
            let create = room.fetch(&state[&key("m.room.create", "")]).unwrap();
            room.check(&create, &state).unwrap();
            for (kind, sender, state_key, content) in [
                ("m.room.member", ALICE, ALICE, json!({"membership": "join"})),
                ("m.room.join_rules", ALICE, "", json!({"join_rule": "invite"})),
                ("m.room.member", ALICE, BOB, json!({"membership": "invite"})),
                ("m.room.member", BOB, BOB, json!({"membership": "join"})),
            ] {
                let pdu = room.make(&state, kind, sender, Some(state_key), content.clone());
                room.check(&pdu, &state).unwrap();
                room.add(&mut state, kind, sender, Some(state_key), content);
            }
            let message = room.make(&state, "m.room.message", BOB, None, json!({}));
            room.check(&message, &state).unwrap();
        }
    }

    #[test]
    fn strangers_neither_join_nor_speak_nor_invite() {
        for version in VERSIONS {
            let (mut room, mut state) = TestRoom::populated(version);
            room.add(&mut state, "m.room.join_rules", ALICE, Some(""), json!({"join_rule": "invite"}));
            for (kind, state_key, content) in [
                ("m.room.member", Some(DAVE), json!({"membership": "join"})),
                ("m.room.message", None, json!({})),
                ("m.room.member", Some("@erin:e.example"), json!({"membership": "invite"})),
            ] {
                let pdu = room.make(&state, kind, DAVE, state_key, content);
                assert!(room.check(&pdu, &state).is_err(), "{kind}");
            }
        }
    }

    #[test]
    fn bans_hold_until_lifted() {
        for version in VERSIONS {
            let (mut room, mut state) = TestRoom::populated(version);
            let kick = room.make(&state, "m.room.member", BOB, Some(ALICE), json!({"membership": "leave"}));
            assert!(room.check(&kick, &state).is_err());
            room.add(&mut state, "m.room.member", BOB, Some(CAROL), json!({"membership": "ban"}));
            let join = room.make(&state, "m.room.member", CAROL, Some(CAROL), json!({"membership": "join"}));
            assert!(room.check(&join, &state).is_err());
            let invite = room.make(&state, "m.room.member", ALICE, Some(CAROL), json!({"membership": "invite"}));
            assert!(room.check(&invite, &state).is_err());
            let unban = room.make(&state, "m.room.member", ALICE, Some(CAROL), json!({"membership": "leave"}));
            room.check(&unban, &state).unwrap();
        }
    }

    #[test]
    fn nobody_raises_anyone_above_themselves() {
        let (mut room, state) = TestRoom::populated(RoomVersionId::V10);
        let mut check = |sender: &str, content| {
            let pdu = room.make(&state, "m.room.power_levels", sender, Some(""), content);
            room.check(&pdu, &state)
        };
        assert!(check(BOB, json!({"users": {ALICE: 100, BOB: 51}})).is_err());
        assert!(check(BOB, json!({"users": {ALICE: 100, BOB: 50, CAROL: 51}})).is_err());
        assert!(check(BOB, json!({"users": {ALICE: 50, BOB: 50}})).is_err());
        assert!(check(CAROL, json!({"users": {ALICE: 100, BOB: 50}, "ban": 0})).is_err());
        check(BOB, json!({"users": {ALICE: 100, BOB: 50, CAROL: 50}})).unwrap();
        assert!(check(ALICE, json!({"users": {ALICE: "100"}})).is_err());
    }

    #[test]
    fn version_12_creators_are_not_listed_in_power_levels() {
        let (mut room, state) = TestRoom::populated(RoomVersionId::V12);
        let listed = room.make(&state, "m.room.power_levels", ALICE, Some(""), json!({"users": {ALICE: 100}}));
        assert!(room.check(&listed, &state).is_err());
        let kick = room.make(&state, "m.room.member", BOB, Some(ALICE), json!({"membership": "leave"}));
        assert!(room.check(&kick, &state).is_err());
    }

    #[test]
    fn restricted_join_needs_a_member_who_may_invite() {
        let (mut room, mut state) = TestRoom::populated(RoomVersionId::V10);
        room.add(&mut state, "m.room.join_rules", ALICE, Some(""), json!({"join_rule": "restricted", "allow": []}));
        let mut join = |content| {
            let pdu = room.make(&state, "m.room.member", DAVE, Some(DAVE), content);
            room.check(&pdu, &state)
        };
        assert!(join(json!({"membership": "join"})).is_err());
        join(json!({"membership": "join", "join_authorised_via_users_server": BOB})).unwrap();
        assert!(join(json!({"membership": "join", "join_authorised_via_users_server": "@no:b.example"})).is_err());
    }

    #[test]
    fn unknown_rejected_superfluous_and_foreign_auth_events_are_refused() {
        let (mut room, state) = TestRoom::populated(RoomVersionId::V10);
        let pdu = room.make(&state, "m.room.message", BOB, None, json!({}));
        room.check(&pdu, &state).unwrap();
        let check = |pdu: &Pdu, change: &dyn Fn(Arc<Pdu>) -> Option<Arc<Pdu>>| {
            check_state_independent(&room.rules, pdu, |event_id| change(room.fetch(event_id)?))
        };
        assert!(check(&pdu, &|_| None).is_err());
        let changed = |found: Arc<Pdu>, change: &dyn Fn(&mut Pdu)| {
            let mut pdu = (*found).clone();
            change(&mut pdu);
            Some(Arc::new(pdu))
        };
        assert!(check(&pdu, &|found| changed(found, &|pdu| pdu.rejected = true)).is_err());
        let elsewhere = ruma::RoomId::parse("!other:a.example").unwrap();
        assert!(check(&pdu, &|found| changed(found, &|pdu| pdu.room_id = elsewhere.clone())).is_err());
        let mut more = (*pdu).clone();
        more.auth_events.push(state[&key("m.room.join_rules", "")].clone());
        assert!(check(&more, &Some).is_err());
        let mut twice = (*pdu).clone();
        twice.auth_events.push(twice.auth_events[0].clone());
        assert!(check(&twice, &Some).is_err());
    }

    #[test]
    fn version_12_needs_the_create_event_without_naming_it() {
        let (mut room, state) = TestRoom::populated(RoomVersionId::V12);
        let create = state[&key("m.room.create", "")].clone();
        let pdu = room.make(&state, "m.room.message", BOB, None, json!({}));
        assert!(!pdu.auth_events.contains(&create));
        check_state_independent(&room.rules, &pdu, |event_id| room.fetch(event_id)).unwrap();
        let without_create = |event_id: &EventId| (event_id != create).then(|| room.fetch(event_id)).flatten();
        assert!(check_state_independent(&room.rules, &pdu, without_create).is_err());
    }

    #[test]
    fn unfederated_room_refuses_other_servers() {
        let content = json!({"creator": ALICE, "m.federate": false, "room_version": "10"});
        let (mut room, mut state) = TestRoom::with_create(RoomVersionId::V10, content);
        room.add(&mut state, "m.room.member", ALICE, Some(ALICE), json!({"membership": "join"}));
        room.add(&mut state, "m.room.join_rules", ALICE, Some(""), json!({"join_rule": "public"}));
        let join = room.make(&state, "m.room.member", BOB, Some(BOB), json!({"membership": "join"}));
        assert!(room.check(&join, &state).is_err());
    }

    #[test]
    fn auth_events_are_selected_as_specified() {
        let types = |version: RoomVersionId, kind: &str, state_key: Option<&str>, content| {
            let content = serde_json::value::to_raw_value(&content).unwrap();
            let types = auth_types_for_event(
                &version.rules().unwrap(),
                &kind.into(),
                BOB.try_into().unwrap(),
                state_key,
                &content,
            );
            let mut types: Vec<_> = types.unwrap().into_iter().map(|(kind, key)| format!("{kind} {key}")).collect();
            types.sort();
            types.join(", ")
        };
        let join = json!({"membership": "join", "join_authorised_via_users_server": ALICE});
        assert_eq!(types(RoomVersionId::V10, "m.room.create", Some(""), json!({})), "");
        assert_eq!(
            types(RoomVersionId::V10, "m.room.message", None, json!({})),
            format!("m.room.create , m.room.member {BOB}, m.room.power_levels ")
        );
        assert_eq!(
            types(RoomVersionId::V10, "m.room.member", Some(BOB), join.clone()),
            format!(
                "m.room.create , m.room.join_rules , m.room.member {ALICE}, m.room.member {BOB}, m.room.power_levels "
            )
        );
        assert_eq!(
            types(RoomVersionId::V12, "m.room.member", Some(BOB), join),
            format!("m.room.join_rules , m.room.member {ALICE}, m.room.member {BOB}, m.room.power_levels ")
        );
    }
}
