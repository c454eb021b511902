use std::collections::HashMap;

use chappe_store::Position;
use ruma::{DeviceId, RoomVersionId, TransactionId, events::StateEventType};
use serde_json::{Value, json};

use super::network::{
    Network, bodies, content, membership, public_room, room_request, set_topic, state_of, text, topic, user,
};
use crate::{
    Event, EventDraft, RoomError,
    client_event::{Memberships, Viewer},
    create::Preset,
    membership::MemberProfile,
    send::transaction,
};

#[tokio::test]
async fn every_supported_version_has_rooms_with_the_state_of_their_preset() {
    let server = Network::new().add("one.example");
    let alice = user(&server, "alice");
    for version in &chappe_protocol::room_version::supported_versions() {
        let room_id =
            server.create_room(&alice, room_request(version.clone(), Preset::PrivateChat)).await.expect("room");
        let room = server.require_room(&room_id).expect("room");
        assert_eq!(room.version, *version);
        let rule: Value =
            server.get_state_content(room.nid, &StateEventType::RoomJoinRules, "").expect("read").expect("join rules");
        assert_eq!(rule, json!({ "join_rule": "invite" }), "{version}");
        assert!(server.is_joined(room.nid, &alice).expect("read"), "{version}");
        assert!(
            server.get_power_levels(&room).expect("read").expect("levels").can_ban(&alice, &user(&server, "bob")),
            "{version}"
        );
        server.send(&alice, &room_id, text("hello")).await.expect("send");
        assert_eq!(bodies(&server, &room_id), ["hello"]);
    }
}

#[tokio::test]
async fn transaction_sent_twice_makes_one_event() {
    let server = Network::new().add("one.example");
    let alice = user(&server, "alice");
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    let device: &DeviceId = "PHONE".into();
    let id: &TransactionId = "t1".into();
    let draft = EventDraft { transaction: Some(transaction(device, id)), ..text("once") };
    let first = server.send(&alice, &room_id, draft.clone()).await.expect("send");
    let second = server.send(&alice, &room_id, draft.clone()).await.expect("send");
    assert_eq!(first.event_id, second.event_id);
    assert_eq!(bodies(&server, &room_id), ["once"]);
    let other_device = EventDraft { transaction: Some(transaction("LAPTOP".into(), id)), ..text("once") };
    assert_ne!(server.send(&alice, &room_id, other_device).await.expect("send").event_id, first.event_id);
}

#[tokio::test]
async fn equal_state_is_not_sent_again() {
    let server = Network::new().add("one.example");
    let alice = user(&server, "alice");
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    let first = server.send(&alice, &room_id, set_topic("quiet")).await.expect("send");
    assert_eq!(server.send(&alice, &room_id, set_topic("quiet")).await.expect("send").event_id, first.event_id);
    assert_ne!(server.send(&alice, &room_id, set_topic("loud")).await.expect("send").event_id, first.event_id);
    assert_eq!(topic(&server, &room_id).as_deref(), Some("loud"));
}

#[tokio::test]
async fn strangers_and_the_powerless_are_refused() {
    let server = Network::new().add("one.example");
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    assert!(matches!(server.send(&bob, &room_id, text("hi")).await, Err(RoomError::Forbidden(_))));
    server.join(&bob, &room_id, &[], &MemberProfile::default(), None).await.expect("join");
    server.send(&bob, &room_id, text("hi")).await.expect("send");
    assert!(matches!(server.send(&bob, &room_id, set_topic("mine")).await, Err(RoomError::Forbidden(_))));
    assert!(matches!(server.kick(&bob, &room_id, &alice, None).await, Err(RoomError::Forbidden(_))));
    assert_eq!(bodies(&server, &room_id), ["hi"]);
}

#[tokio::test]
async fn banned_user_cannot_come_back_until_unbanned() {
    let server = Network::new().add("one.example");
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    let nobody = MemberProfile::default();
    server.join(&bob, &room_id, &[], &nobody, None).await.expect("join");
    server.ban(&alice, &room_id, &bob, Some("noise".to_owned())).await.expect("ban");
    assert_eq!(membership(&server, &room_id, &bob), "ban");
    assert!(matches!(server.join(&bob, &room_id, &[], &nobody, None).await, Err(RoomError::Forbidden(_))));
    server.unban(&alice, &room_id, &bob, None).await.expect("unban");
    server.join(&bob, &room_id, &[], &nobody, None).await.expect("join");
    assert_eq!(membership(&server, &room_id, &bob), "join");
}

#[tokio::test]
async fn redaction_removes_content_from_the_event_and_from_storage() {
    let server = Network::new().add("one.example");
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    for version in [RoomVersionId::V6, RoomVersionId::V11] {
        let room_id = public_room(&server, &alice, version).await;
        server.join(&bob, &room_id, &[], &MemberProfile::default(), None).await.expect("join");
        let secret = server.send(&alice, &room_id, text("secret")).await.expect("send").event_id;
        assert!(matches!(server.redact(&bob, &room_id, &secret, None, None).await, Err(RoomError::Forbidden(_))));
        let redaction =
            server.redact(&alice, &room_id, &secret, Some("oops".to_owned()), None).await.expect("redact").event_id;
        let event = server.get_event(&secret).expect("read").expect("event");
        assert_eq!(event.pdu.get_content::<Value>().expect("content"), json!({}));
        assert!(!event.pdu.json().contains("secret"));
        let shown = server.to_client(&event, None, true).expect("client form");
        let shown: Value = serde_json::from_str(shown.get()).expect("json");
        assert_eq!(shown["unsigned"]["redacted_because"]["event_id"], redaction.as_str());
    }
}

#[tokio::test]
async fn transaction_id_is_shown_to_its_own_device_only() {
    let server = Network::new().add("one.example");
    let alice = user(&server, "alice");
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    let draft = EventDraft { transaction: Some(transaction("PHONE".into(), "t1".into())), ..text("x") };
    let sent = server.send(&alice, &room_id, draft).await.expect("send");
    let event = server.get_event(&sent.event_id).expect("read").expect("event");
    let shown_to = |device: &'static str| {
        let device: &DeviceId = device.into();
        let raw = server.to_client(&event, Some(Viewer::new(&alice, Some(device))), true).expect("client form");
        serde_json::from_str::<Value>(raw.get()).expect("json")["unsigned"].get("transaction_id").cloned()
    };
    assert_eq!(shown_to("PHONE"), Some(json!("t1")));
    assert_eq!(shown_to("LAPTOP"), None);
}

#[tokio::test]
async fn history_visibility_joined_hides_what_came_before_the_join() {
    let server = Network::new().add("one.example");
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    let shared = server.send(&alice, &room_id, text("shared")).await.expect("send").event_id;
    let hidden = EventDraft::state("m.room.history_visibility", "", content(json!({ "history_visibility": "joined" })));
    server.send(&alice, &room_id, hidden).await.expect("send");
    let before = server.send(&alice, &room_id, text("before")).await.expect("send").event_id;
    server.join(&bob, &room_id, &[], &MemberProfile::default(), None).await.expect("join");
    let after = server.send(&alice, &room_id, text("after")).await.expect("send").event_id;
    let sees = |id: &ruma::EventId| {
        server.is_visible_to_user(&server.get_event(id).expect("read").expect("event"), &bob).expect("judge")
    };
    assert!(sees(&shared) && !sees(&before) && sees(&after));
    server.leave(&bob, &room_id, None).await.expect("leave");
    let gone = server.send(&alice, &room_id, text("gone")).await.expect("send").event_id;
    assert!(sees(&after) && !sees(&gone));
}

/// A room whose visibility and whose members change: what each of its events shows of that, whatever was shown before it.
#[tokio::test]
async fn what_was_judged_of_one_event_holds_for_others_only_where_nothing_changed() {
    let server = Network::new().add("one.example");
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    let set_visibility = |visibility: &str| {
        EventDraft::state("m.room.history_visibility", "", content(json!({ "history_visibility": visibility })))
    };
    for visibility in ["joined", "shared", "invited"] {
        server.send(&alice, &room_id, text("before")).await.expect("send");
        server.send(&alice, &room_id, set_visibility(visibility)).await.expect("send");
        server.send(&alice, &room_id, text("between")).await.expect("send");
        server.join(&bob, &room_id, &[], &MemberProfile::default(), None).await.expect("join");
        server.send(&bob, &room_id, text("here")).await.expect("send");
        server.leave(&bob, &room_id, None).await.expect("leave");
    }
    let room = server.require_room(&room_id).expect("room");
    let nids = server.scan_timeline(room.nid, Position::ZERO, server.store().durable_position());
    let mut events: Vec<_> = server.with_events(nids, 100).map(|row| row.expect("row").1).collect();
    let membership_shown = |event: &Event, viewer: Viewer<'_>| {
        let raw = server.to_client(event, Some(viewer), true).expect("client form");
        serde_json::from_str::<Value>(raw.get()).expect("json")["unsigned"]["membership"].clone()
    };
    let by_itself: Vec<_> = events
        .iter()
        .map(|event| {
            (server.is_visible_to_user(event, &bob).expect("judge"), membership_shown(event, Viewer::new(&bob, None)))
        })
        .collect();
    let expected: HashMap<_, _> = events.iter().map(|event| event.nid).zip(by_itself).collect();
    assert_eq!(expected.values().filter(|(_, membership)| membership == "join").count(), 6);
    assert!(expected.values().any(|(is_visible, _)| *is_visible) && expected.values().any(|(seen, _)| !seen));
    for round in 0..3 {
        match round {
            1 => events.reverse(),
            // Neighbours come apart.
            2 => events.sort_by_key(|event| (event.nid.0 % 3, event.nid)),
            _ => {}
        }
        let memberships = Memberships::default();
        let mut eyes = server.eyes_of(room.nid, &bob).expect("eyes");
        for event in &events {
            let viewer = Viewer::new(&bob, None).remembering(&memberships);
            let judged = (eyes.sees(event).expect("judge"), membership_shown(event, viewer));
            assert_eq!(expected.get(&event.nid), Some(&judged), "{round}: {}", event.pdu.json());
        }
    }
}

#[tokio::test]
async fn concurrent_senders_lose_nothing_and_keep_one_line_of_history() {
    let server = Network::new().add("one.example");
    let alice = user(&server, "alice");
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let (server, alice, room_id) = (server.clone(), alice.clone(), room_id.clone());
        tasks.spawn(async move { server.send(&alice, &room_id, text(&n.to_string())).await.expect("send").event_id });
    }
    let sent = tasks.join_all().await;
    let mut seen: Vec<u32> = bodies(&server, &room_id).iter().map(|body| body.parse().expect("number")).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..32).collect::<Vec<_>>());
    assert_eq!(sent.len(), 32);
    assert_eq!(server.require_room(&room_id).expect("room").record.forward_extremities.len(), 1);
}

#[tokio::test]
async fn state_at_a_position_is_what_it_was_then() {
    let server = Network::new().add("one.example");
    let alice = user(&server, "alice");
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    server.send(&alice, &room_id, set_topic("first")).await.expect("send");
    let then: Position = server.store().durable_position();
    server.send(&alice, &room_id, set_topic("second")).await.expect("send");
    let room = server.require_room(&room_id).expect("room");
    let root = server.get_state_root_at(room.nid, then).expect("read").expect("root");
    let event = server.get_from_root(room.nid, root, &StateEventType::RoomTopic, "").expect("read").expect("topic");
    assert_eq!(event.pdu.get_content::<Value>().expect("content")["topic"], "first");
    let changes = server.get_state_diff(room.nid, root, room.record.state).expect("diff");
    assert_eq!(changes.len(), 1);
    assert!(state_of(&server, &room_id).contains_key(&("m.room.topic".to_owned(), String::new())));
}

#[tokio::test]
async fn restricted_room_lets_in_members_of_the_other_room_only() {
    let server = Network::new().add("one.example");
    let (alice, bob, carol) = (user(&server, "alice"), user(&server, "bob"), user(&server, "carol"));
    let club = public_room(&server, &alice, RoomVersionId::V11).await;
    let room_id =
        server.create_room(&alice, room_request(RoomVersionId::V11, Preset::PrivateChat)).await.expect("room");
    let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": club }] });
    server.send(&alice, &room_id, EventDraft::state("m.room.join_rules", "", content(rule))).await.expect("send");
    server.join(&bob, &club, &[], &MemberProfile::default(), None).await.expect("join");
    server.join(&bob, &room_id, &[], &MemberProfile::default(), None).await.expect("restricted join");
    assert_eq!(membership(&server, &room_id, &bob), "join");
    assert!(matches!(
        server.join(&carol, &room_id, &[], &MemberProfile::default(), None).await,
        Err(RoomError::Forbidden(_))
    ));
}
