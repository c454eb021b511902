//! What the rules have allowed once is allowed as long as the state is the same, and no longer.

use ruma::{RoomVersionId, events::StateEventType};
use serde_json::json;

use super::network::{Network, content, public_room, set_topic, text, user};
use crate::{EventDraft, RoomError, membership::MemberProfile, permits::Subject};

#[tokio::test]
async fn a_permit_is_kept_for_the_state_it_was_given_at() {
    let server = Network::new().add("one.example");
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    server.join(&bob, &room_id, &[], &MemberProfile::default(), None).await.expect("join");
    let permit = |draft: &EventDraft| {
        let room = server.require_room(&room_id).expect("room");
        server.permits.get(&Subject::of(room.nid, room.record.state, &bob, draft).expect("a message"))
    };
    assert!(permit(&text("")).is_none());
    let first = server.send(&bob, &room_id, text("one")).await.expect("send").event_id;
    let first = server.get_event(&first).expect("read").expect("event");
    let given = permit(&text("")).expect("given");
    assert!(given.iter().eq(&first.pdu.auth_events), "{given:?}");
    let second = server.send(&bob, &room_id, text("two")).await.expect("send").event_id;
    let second = server.get_event(&second).expect("read").expect("event");
    assert_eq!(second.pdu.auth_events, first.pdu.auth_events);
    let other = EventDraft::message("org.example.other".into(), content(json!({})));
    assert!(permit(&other).is_none(), "each type needs one of its own");

    let levels = json!({ "users": { alice.as_str(): 100 }, "events": { "m.room.message": 50 } });
    let levels = EventDraft::state(StateEventType::RoomPowerLevels.to_string(), "", content(levels));
    server.send(&alice, &room_id, levels).await.expect("levels");
    assert!(permit(&text("")).is_none());
    let refused = server.send(&bob, &room_id, text("three")).await;
    assert!(matches!(refused, Err(RoomError::Forbidden(_))), "{refused:?}");
    assert!(permit(&text("")).is_none(), "a refusal leaves none");
    let sent = server.send(&bob, &room_id, other.clone()).await.expect("send").event_id;
    let sent = server.get_event(&sent).expect("read").expect("event");
    assert_ne!(sent.pdu.auth_events, first.pdu.auth_events, "the new levels are among them");
    assert!(permit(&other).is_some());

    server.ban(&alice, &room_id, &bob, None).await.expect("ban");
    let refused = server.send(&bob, &room_id, other).await;
    assert!(matches!(refused, Err(RoomError::Forbidden(_))), "{refused:?}");
}

#[tokio::test]
async fn a_redaction_of_state_takes_the_permits_of_its_room_back() {
    let server = Network::new().add("one.example");
    let alice = user(&server, "alice");
    let rooms = [
        public_room(&server, &alice, RoomVersionId::V11).await,
        public_room(&server, &alice, RoomVersionId::V11).await,
    ];
    let has_permit = |at: usize| {
        let room = server.require_room(&rooms[at]).expect("room");
        let subject = Subject::of(room.nid, room.record.state, &alice, &text("")).expect("a message");
        server.permits.get(&subject).is_some()
    };
    let topic = server.send(&alice, &rooms[0], set_topic("quiet")).await.expect("topic").event_id;
    let mut message = None;
    for room_id in &rooms {
        message.get_or_insert(server.send(&alice, room_id, text("hello")).await.expect("send").event_id);
    }
    server.redact(&alice, &rooms[0], &message.expect("sent"), None, None).await.expect("redact");
    assert!(has_permit(0) && has_permit(1), "the rules read no messages");
    server.redact(&alice, &rooms[0], &topic, None, None).await.expect("redact");
    assert!(!has_permit(0) && has_permit(1));
    server.send(&alice, &rooms[0], text("hello again")).await.expect("send");
    assert!(has_permit(0));
}

#[test]
fn events_that_the_rules_read_get_none() {
    let (server, room) = (Network::new().add("one.example"), chappe_store::RoomNid(1));
    let alice = user(&server, "alice");
    let subject = |draft: &EventDraft| Subject::of(room, [0; 16], &alice, draft);
    assert!(subject(&set_topic("quiet")).is_none());
    for kind in ["m.room.member", "m.room.power_levels", "m.room.redaction", "m.room.create"] {
        assert!(subject(&EventDraft::message(kind.into(), content(json!({})))).is_none(), "{kind}");
    }
    assert!(subject(&EventDraft::message("m.room.encrypted".into(), content(json!({})))).is_some());
}
