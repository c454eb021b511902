use chappe_protocol::{clock::Clock, sign::ServerSigner};
use chappe_store::{
    Direction, Order,
    tables::{
        events::EventStatus,
        outgoing::{OUTGOING, OutgoingItem},
    },
};
use ruma::{
    MilliSecondsSinceUnixEpoch, RoomVersionId, api::Direction as Paging, events::StateEventType, owned_server_name,
};
use serde_json::{Value, json};

use super::network::{
    Network, POLICY_SEED, bodies, check_topology, content, join_from, membership, public_room, room_request, set_topic,
    state_of, text, topic, two_servers, user,
};
use crate::{
    EventDraft, RoomError,
    backfill::Backfilled,
    create::Preset,
    membership::{JoinContent, MemberProfile},
    send::integer,
    staging::Staging,
    third_party::ThirdPartySigned,
};

const VERSIONS: [RoomVersionId; 5] =
    [RoomVersionId::V2, RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];

#[tokio::test]
async fn join_over_federation_gives_both_servers_the_same_state() {
    for version in VERSIONS {
        let (network, (one, alice), (two, bob)) = two_servers();
        let room_id = public_room(&one, &alice, version.clone()).await;
        one.send(&alice, &room_id, text("before")).await.expect("send");
        join_from(&two, &bob, &room_id, &one).await;
        network.deliver().await;
        assert_eq!(state_of(&one, &room_id), state_of(&two, &room_id), "{version}");
        two.send(&bob, &room_id, text("from two")).await.expect("send");
        one.send(&alice, &room_id, text("from one")).await.expect("send");
        network.deliver().await;
        for server in [&one, &two] {
            let mut bodies = bodies(server, &room_id);
            bodies.retain(|body| body != "before");
            bodies.sort();
            assert_eq!(bodies, ["from one", "from two"], "{version}");
        }
    }
}

#[tokio::test]
async fn invite_to_another_server_is_signed_there_and_can_be_accepted() {
    for version in VERSIONS {
        let (network, (one, alice), (two, bob)) = two_servers();
        let mut request = room_request(version.clone(), Preset::PrivateChat);
        request.invite = vec![bob.clone()];
        let room_id = one.create_room(&alice, request).await.expect("room");
        assert_eq!(membership(&one, &room_id, &bob), "invite", "{version}");
        assert_eq!(membership(&two, &room_id, &bob), "invite", "{version}");
        let nid = two.get_room_nid(&room_id).expect("read").expect("room");
        let shown = two.get_stripped_state(&bob, nid).expect("read");
        assert!(shown.iter().any(|event| event["type"] == "m.room.name"), "{version}");
        two.join(&bob, &room_id, &[], &MemberProfile::default(), None).await.expect("join");
        network.deliver().await;
        assert_eq!(state_of(&one, &room_id), state_of(&two, &room_id), "{version}");
        assert_eq!(membership(&one, &room_id, &bob), "join", "{version}");
    }
}

#[tokio::test]
async fn declined_invite_is_known_on_both_servers_even_if_one_is_down() {
    let network = Network::new();
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let (alice, bob, carol) = (user(&one, "alice"), user(&two, "bob"), user(&two, "carol"));
    let mut request = room_request(RoomVersionId::V11, Preset::PrivateChat);
    request.invite = vec![bob.clone(), carol.clone()];
    let room_id = one.create_room(&alice, request).await.expect("room");
    two.leave(&bob, &room_id, None).await.expect("decline");
    assert_eq!(membership(&one, &room_id, &bob), "leave");
    assert_eq!(membership(&two, &room_id, &bob), "leave");
    network.set_down(&one, true);
    two.leave(&carol, &room_id, None).await.expect("decline");
    assert_eq!(membership(&two, &room_id, &carol), "leave");
}

#[tokio::test]
async fn uninvited_join_is_refused_by_the_resident_server() {
    let (_network, (one, alice), (two, bob)) = two_servers();
    let room_id = one.create_room(&alice, room_request(RoomVersionId::V11, Preset::PrivateChat)).await.expect("room");
    let via = [one.server_name().to_owned()];
    assert!(two.join(&bob, &room_id, &via, &MemberProfile::default(), None).await.is_err());
    assert_eq!(membership(&one, &room_id, &bob), "leave");
    assert!(two.get_room(&room_id).expect("read").is_none());
}

#[tokio::test]
async fn gap_is_filled_with_missing_events_alone() {
    let (network, (one, alice), (two, bob)) = two_servers();
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    join_from(&two, &bob, &room_id, &one).await;
    network.deliver().await;
    let mut last = None;
    for n in 0..5 {
        last = Some(one.send(&alice, &room_id, text(&n.to_string())).await.expect("send").event_id);
    }
    network.asked.lock().clear();
    let last = one.get_event(&last.expect("sent")).expect("read").expect("event");
    two.receive_pdu(one.server_name(), &room_id, &last.pdu.to_federation_raw().expect("raw")).await.expect("receive");
    assert_eq!(bodies(&two, &room_id), ["0", "1", "2", "3", "4"]);
    assert_eq!(*network.asked.lock(), ["get_missing_events"]);
}

#[tokio::test]
async fn gap_too_wide_to_fill_takes_the_state_from_the_other_server() {
    let (network, (one, alice), (two, bob)) = two_servers();
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    join_from(&two, &bob, &room_id, &one).await;
    network.deliver().await;
    one.send(&alice, &room_id, set_topic("changed unseen")).await.expect("send");
    let mut last = None;
    for n in 0..40 {
        last = Some(one.send(&alice, &room_id, text(&n.to_string())).await.expect("send").event_id);
    }
    let last = one.get_event(&last.expect("sent")).expect("read").expect("event");
    two.receive_pdu(one.server_name(), &room_id, &last.pdu.to_federation_raw().expect("raw")).await.expect("receive");
    assert!(bodies(&two, &room_id).contains(&"39".to_owned()));
    assert_eq!(topic(&two, &room_id).as_deref(), Some("changed unseen"));

    // Once the gap is filled after all, what came before it is no end of the room.
    let room = two.require_room(&room_id).expect("room");
    assert_eq!(room.record.forward_extremities.len(), 2);
    let end = two.get_end_of_room(room.nid).expect("end");
    while two.backfill(&room, end, 100).await.expect("backfill") == Backfilled::New {}
    let room = two.require_room(&room_id).expect("room");
    let ends: Vec<_> = room.record.forward_extremities.iter().map(|(_, id, _)| id).collect();
    assert_eq!(ends, [&last.pdu.event_id]);
    assert_eq!(state_of(&two, &room_id), state_of(&one, &room_id));
}

#[tokio::test]
async fn cut_link_ends_in_the_same_state_on_both_sides() {
    for version in VERSIONS {
        let (network, (one, alice), (two, bob)) = two_servers();
        let room_id = public_room(&one, &alice, version.clone()).await;
        join_from(&two, &bob, &room_id, &one).await;
        network.deliver().await;
        let mut levels =
            EventDraft::state("m.room.power_levels", "", content(json!({ "users": { bob.as_str(): 50 } })));
        if version != RoomVersionId::V12 {
            levels.content = content(json!({ "users": { alice.as_str(): 100, bob.as_str(): 50 } }));
        }
        one.send(&alice, &room_id, levels).await.expect("send");
        network.deliver().await;
        network.set_down(&two, true);
        one.send(&alice, &room_id, set_topic("of one")).await.expect("send");
        two.send(&bob, &room_id, set_topic("of two")).await.expect("send");
        one.send(&alice, &room_id, text("one")).await.expect("send");
        two.send(&bob, &room_id, text("two")).await.expect("send");
        network.set_down(&two, false);
        network.deliver().await;
        assert_eq!(state_of(&one, &room_id), state_of(&two, &room_id), "{version}");
        assert_eq!(one.require_room(&room_id).expect("room").record.forward_extremities.len(), 2);
        one.send(&alice, &room_id, text("mended")).await.expect("send");
        network.deliver().await;
        assert_eq!(two.require_room(&room_id).expect("room").record.forward_extremities.len(), 1);
        assert_eq!(state_of(&one, &room_id), state_of(&two, &room_id), "{version}");
    }
}

#[tokio::test]
async fn soft_failed_event_is_not_in_the_timeline_and_not_built_upon() {
    let (network, (one, alice), (two, bob)) = two_servers();
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    join_from(&two, &bob, &room_id, &one).await;
    network.deliver().await;
    network.set_down(&two, true);
    one.ban(&alice, &room_id, &bob, None).await.expect("ban");
    // Bob's server has not heard of the ban yet.
    let late = two.send(&bob, &room_id, text("too late")).await.expect("send").event_id;
    network.set_down(&two, false);
    network.deliver().await;
    let event = one.get_event(&late).expect("read").expect("kept");
    assert_eq!(event.record.status, EventStatus::SoftFailed);
    assert!(!bodies(&one, &room_id).contains(&"too late".to_owned()));
    let next = one.send(&alice, &room_id, text("next")).await.expect("send").event_id;
    assert!(!one.get_event(&next).expect("read").expect("event").pdu.prev_events.contains(&late));
}

#[tokio::test]
async fn forged_and_tampered_events_are_refused_or_redacted() {
    let network = Network::new();
    let (one, two, three) = (network.add("one.example"), network.add("two.example"), network.add("three.example"));
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    join_from(&two, &bob, &room_id, &one).await;
    network.deliver().await;
    let room = two.require_room(&room_id).expect("room");
    let staging = Staging::begin(&two, room.clone()).expect("staging");

    // Signed by somebody else's key.
    let mut object = staging.template(&bob, &text("forged")).expect("template");
    object.insert("origin_server_ts".to_owned(), integer(1_700_000_000_000));
    let forged = three.sign_new_event(object.clone(), &room.rules).expect("event");
    let forged = forged.to_federation_raw().expect("raw");
    assert!(matches!(one.receive_pdu(two.server_name(), &room_id, &forged).await, Err(RoomError::Forbidden(_))));

    // Signed rightly, content changed afterwards: only what the signature covers is kept.
    let honest = two.sign_new_event(object, &room.rules).expect("event");
    let tampered: String = honest.json().replace("forged", "tampered");
    let tampered = serde_json::value::RawValue::from_string(tampered).expect("raw");
    one.receive_pdu(two.server_name(), &room_id, &tampered).await.expect("receive");
    let kept = one.get_event(&honest.event_id).expect("read").expect("kept");
    assert_eq!(kept.pdu.get_content::<Value>().expect("content"), json!({}));
}

#[tokio::test]
async fn event_its_sender_may_not_send_is_rejected_for_good() {
    let (network, (one, alice), (two, bob)) = two_servers();
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    join_from(&two, &bob, &room_id, &one).await;
    network.deliver().await;
    let room = two.require_room(&room_id).expect("room");
    let pdu = Staging::begin(&two, room).expect("staging").build_own(&bob, &set_topic("coup"), None).expect("event");
    one.receive_pdu(two.server_name(), &room_id, &pdu.to_federation_raw().expect("raw")).await.expect("receive");
    assert_eq!(one.get_event(&pdu.event_id).expect("read").expect("kept").record.status, EventStatus::Rejected);
    assert_eq!(topic(&one, &room_id), None);
}

#[tokio::test]
async fn history_from_before_the_join_is_backfilled_in_order() {
    let (_network, (one, alice), (two, bob)) = two_servers();
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    for n in 0..30 {
        one.send(&alice, &room_id, text(&n.to_string())).await.expect("send");
    }
    join_from(&two, &bob, &room_id, &one).await;
    let room = two.require_room(&room_id).expect("room");
    let end = (u64::MAX >> 1, Order::LAST);
    while two.backfill(&room, end, 100).await.expect("backfill") == Backfilled::New {}
    let page = two.get_page(room.nid, end, Direction::Reverse, 100).expect("page");
    let bodies: Vec<String> = page
        .iter()
        .filter_map(|(_, event)| event.pdu.get_content::<Value>().ok()?.get("body")?.as_str().map(str::to_owned))
        .collect();
    assert_eq!(bodies, (0..30).rev().map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(page.last().is_some_and(|(_, event)| event.pdu.kind.to_string() == "m.room.create"));
    // What came before the join is not news.
    let (timeline, _) =
        two.get_timeline(room.nid, Default::default(), two.store().durable_position(), 100).expect("timeline");
    assert_eq!(timeline.len(), 1);
    assert!(two.is_visible_to_user(&page[5].1, &bob).expect("judge"));
}

#[tokio::test]
async fn restricted_join_over_federation_is_co_signed() {
    let network = Network::new();
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let (alice, bob, carol) = (user(&one, "alice"), user(&two, "bob"), user(&two, "carol"));
    let via = [one.server_name().to_owned()];
    let club = public_room(&one, &alice, RoomVersionId::V11).await;
    let room_id = one.create_room(&alice, room_request(RoomVersionId::V11, Preset::PrivateChat)).await.expect("room");
    let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": club }] });
    one.send(&alice, &room_id, EventDraft::state("m.room.join_rules", "", content(rule))).await.expect("send");
    two.join(&bob, &club, &via, &MemberProfile::default(), None).await.expect("join");
    network.deliver().await;
    two.join(&bob, &room_id, &via, &MemberProfile::default(), None).await.expect("restricted join");
    network.deliver().await;
    assert_eq!(membership(&one, &room_id, &bob), "join");
    let room = two.require_room(&room_id).expect("room");
    let join = two.get_state_event(room.nid, &StateEventType::RoomMember, bob.as_str()).expect("read").expect("join");
    assert!(join.pdu.json().contains(r#""one.example":{"ed25519:a""#));
    assert!(two.join(&carol, &room_id, &via, &MemberProfile::default(), None).await.is_err());
}

#[tokio::test]
async fn knock_over_federation_can_be_answered_with_an_invite() {
    let (_network, (one, alice), (two, bob)) = two_servers();
    let room_id = one.create_room(&alice, room_request(RoomVersionId::V11, Preset::PrivateChat)).await.expect("room");
    let rule = EventDraft::state("m.room.join_rules", "", content(json!({ "join_rule": "knock" })));
    one.send(&alice, &room_id, rule).await.expect("send");
    two.knock(&bob, &room_id, &[one.server_name().to_owned()], &MemberProfile::default(), Some("let me in".to_owned()))
        .await
        .expect("knock");
    assert_eq!(membership(&one, &room_id, &bob), "knock");
    assert_eq!(membership(&two, &room_id, &bob), "knock");
    one.invite(&alice, &room_id, &bob, None).await.expect("invite");
    two.join(&bob, &room_id, &[], &MemberProfile::default(), None).await.expect("join");
    assert_eq!(membership(&one, &room_id, &bob), "join");
}

#[tokio::test]
async fn history_is_given_only_to_servers_in_the_room() {
    let network = Network::new();
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let alice = user(&one, "alice");
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    let event_id = one.send(&alice, &room_id, text("inside")).await.expect("send").event_id;
    let stranger = two.server_name();
    assert!(matches!(one.get_event_for_server(stranger, &event_id), Err(RoomError::NotFound(_))));
    assert!(one.get_backfill(stranger, &room_id, std::slice::from_ref(&event_id), 10).is_err());
    assert!(one.get_state_for_server(stranger, &room_id, &event_id).is_err());
    assert!(one.get_event_auth(stranger, &room_id, &event_id).is_err());
}

#[tokio::test]
async fn invite_taken_back_is_gone_on_the_invited_server_too() {
    let (network, (one, alice), (two, bob)) = two_servers();
    let mut request = room_request(RoomVersionId::V11, Preset::PrivateChat);
    request.invite = vec![bob.clone()];
    let room_id = one.create_room(&alice, request).await.expect("room");
    assert_eq!(membership(&two, &room_id, &bob), "invite");
    one.kick(&alice, &room_id, &bob, None).await.expect("take back");
    network.deliver().await;
    assert_eq!(membership(&two, &room_id, &bob), "leave");
}

#[tokio::test]
async fn invite_is_not_taken_back_by_somebody_else() {
    let network = Network::new();
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let (alice, carol, bob) = (user(&one, "alice"), user(&one, "carol"), user(&two, "bob"));
    let mut request = room_request(RoomVersionId::V11, Preset::PrivateChat);
    request.invite = vec![carol.clone()];
    let room_id = one.create_room(&alice, request).await.expect("room");
    one.join(&carol, &room_id, &[], &MemberProfile::default(), None).await.expect("join");
    one.invite(&carol, &room_id, &bob, None).await.expect("invite");
    one.kick(&alice, &room_id, &bob, None).await.expect("kick");
    network.deliver().await;
    assert_eq!(membership(&one, &room_id, &bob), "leave");
    assert_eq!(membership(&two, &room_id, &bob), "invite");
}

#[tokio::test]
async fn creator_of_a_version_12_room_cannot_be_given_a_level() {
    let server = Network::new().add("one.example");
    let alice = user(&server, "alice");
    let room_id = public_room(&server, &alice, RoomVersionId::V12).await;
    let levels = EventDraft::state("m.room.power_levels", "", content(json!({ "users": { alice.as_str(): 100 } })));
    assert!(matches!(server.send(&alice, &room_id, levels).await, Err(RoomError::Invalid(_))));
}

#[tokio::test]
async fn event_of_a_time_before_the_join_is_fetched_from_a_server_that_has_it() {
    let (network, (one, alice), (two, bob)) = two_servers();
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    let mut sent = Vec::new();
    for body in ["a", "b", "c"] {
        let at = network.clock.advance(10_000);
        let event = one.send(&alice, &room_id, text(body)).await.expect("send");
        sent.push((event.event_id, at));
    }
    network.clock.advance(10_000);
    join_from(&two, &bob, &room_id, &one).await;
    network.deliver().await;

    let find = async |server: &crate::Rooms, user: &ruma::UserId, at: u64, direction: Paging| {
        let room = server.require_room(&room_id).expect("room");
        let at = MilliSecondsSinceUnixEpoch(ruma::UInt::new_saturating(at));
        let found = server.get_visible_event_by_time(&room, user, at, direction).await.expect("look");
        found.map(|event| event.pdu.event_id.clone())
    };
    let (b, at) = sent[1].clone();
    for (server, user) in [(&one, &alice), (&two, &bob)] {
        assert_eq!(find(server, user, at - 5, Paging::Forward).await.as_ref(), Some(&b));
        assert_eq!(find(server, user, at + 5, Paging::Backward).await.as_ref(), Some(&b));
        assert_eq!(find(server, user, at, Paging::Backward).await.as_ref(), Some(&b));
        assert_eq!(find(server, user, at + 3_600_000, Paging::Forward).await, None);
        assert_eq!(find(server, user, 1, Paging::Backward).await, None);
    }
    assert_eq!(bodies(&two, &room_id).len(), 0, "what was fetched is history, and not news");
    let asked = network.asked.lock().len();
    assert_eq!(find(&one, &alice, at - 5, Paging::Forward).await.as_ref(), Some(&b));
    assert_eq!(network.asked.lock().len(), asked, "who has the whole history asks nobody");
    let carol = user(&one, "carol");
    assert_eq!(find(&one, &carol, at, Paging::Forward).await, None, "strangers see nothing");
}

#[tokio::test]
async fn who_an_identity_server_vouches_for_is_invited_here_and_elsewhere() {
    let network = Network::new();
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let (alice, bob, carol) = (user(&one, "alice"), user(&two, "bob"), user(&one, "carol"));
    let identity = ServerSigner::from_seed(owned_server_name!("id.example"), "0", &[9; 32]).expect("signer");
    let word = |user: &ruma::UserId, token: &str| {
        let signed = json!({ "mxid": user, "sender": alice, "token": token });
        let mut signed = content(signed);
        identity.sign_json(&mut signed).expect("signed");
        ThirdPartySigned::read(signed, None).expect("word")
    };
    for version in [RoomVersionId::V2, RoomVersionId::V11, RoomVersionId::V12] {
        let room_id = one.create_room(&alice, room_request(version.clone(), Preset::PrivateChat)).await.expect("room");
        for (token, url) in [("good", "https://id.example/valid"), ("revoked", "https://id.example/revoked")] {
            let key = identity.verify_key_base64();
            let invite = content(json!({
                "display_name": "b...", "key_validity_url": url, "public_key": key,
                "public_keys": [{ "public_key": key, "key_validity_url": url }],
            }));
            let draft = EventDraft::state(StateEventType::RoomThirdPartyInvite.to_string(), token, invite);
            one.send(&alice, &room_id, draft).await.expect("third-party invite");
        }
        let refused = |result: Result<(), RoomError>| match result {
            Err(RoomError::Forbidden(_) | RoomError::Remote(_)) => true,
            other => panic!("{other:?}"),
        };
        assert!(refused(two.accept_third_party_invite(&bob, &room_id, &word(&carol, "good")).await));
        assert!(refused(two.accept_third_party_invite(&bob, &room_id, &word(&bob, "revoked")).await));
        assert!(refused(two.accept_third_party_invite(&bob, &room_id, &word(&bob, "unknown")).await));
        two.accept_third_party_invite(&bob, &room_id, &word(&bob, "good")).await.expect("accepted elsewhere");
        assert_eq!(membership(&two, &room_id, &bob), "invite", "{version}");
        two.join(&bob, &room_id, &[], &MemberProfile::default(), None).await.expect("join");
        one.accept_third_party_invite(&carol, &room_id, &word(&carol, "good")).await.expect("accepted here");
        network.deliver().await;
        for server in [&one, &two] {
            assert_eq!(membership(server, &room_id, &bob), "join", "{version}");
            assert_eq!(membership(server, &room_id, &carol), "invite", "{version}");
        }
        assert_eq!(state_of(&one, &room_id), state_of(&two, &room_id), "{version}");
    }
}

#[tokio::test]
async fn join_event_says_what_the_client_wants_in_it_but_for_what_the_server_sets() {
    let network = Network::new();
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let (alice, bob, carol) = (user(&one, "alice"), user(&two, "bob"), user(&one, "carol"));
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    let join = JoinContent {
        profile: MemberProfile { display_name: Some("Profile".to_owned()), avatar_url: None },
        reason: Some("curious".to_owned()),
        extra: content(
            json!({ "foo": "bar", "membership": "ban", "join_authorised_via_users_server": "@x:y.example" }),
        ),
    };
    one.join_with(&carol, &room_id, &[], &join).await.expect("local join");
    two.join_with(&bob, &room_id, &[one.server_name().to_owned()], &join).await.expect("remote join");
    let room = one.require_room(&room_id).expect("room");
    for user in [&bob, &carol] {
        let said: Value =
            one.get_state_content(room.nid, &StateEventType::RoomMember, user.as_str()).expect("read").expect("member");
        let wanted = json!({ "membership": "join", "displayname": "Profile", "reason": "curious", "foo": "bar" });
        assert_eq!(said, wanted, "{user}");
    }
}

#[tokio::test]
async fn events_that_the_policy_server_does_not_sign_are_neither_sent_nor_shown() {
    let network = Network::new();
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let policy = network.add("policy.example");
    let (alice, bob, guard) = (user(&one, "alice"), user(&two, "bob"), user(&policy, "guard"));
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    let nobody = MemberProfile::default();
    for (server, user) in [(&two, &bob), (&policy, &guard)] {
        server.join(user, &room_id, &[one.server_name().to_owned()], &nobody, None).await.expect("join");
    }
    network.deliver().await;
    one.send(&alice, &room_id, text("spam before")).await.expect("nobody judges yet");
    let key = ServerSigner::from_seed(policy.server_name().to_owned(), "policy_server", &POLICY_SEED).expect("signer");
    let chosen = json!({ "via": "policy.example", "public_keys": { "ed25519": key.verify_key_base64() } });
    let asked = || network.asked.lock().iter().filter(|question| **question == "policy").count();
    one.send(&alice, &room_id, EventDraft::state("m.room.policy".to_owned(), "", content(chosen)))
        .await
        .expect("choice");
    assert_eq!(asked(), 0, "the choice is not for the chosen to judge");
    network.deliver().await;

    let refused = one.send(&alice, &room_id, text("spam")).await;
    assert!(matches!(refused, Err(RoomError::Remote(crate::RemoteError::Refused { .. }))), "{refused:?}");
    one.send(&alice, &room_id, text("signed")).await.expect("sent");
    assert_eq!(asked(), 2);
    network.deliver().await;
    assert_eq!(asked(), 2, "who gets a signed event need not ask");
    // A server that does not ask: the others ask in its place.
    for body in ["spam past the policy server", "past the policy server"] {
        let draft = text(body);
        let _writing = two.locks.write(&room_id).await;
        let mut staging = Staging::begin(&two, two.require_room(&room_id).expect("room")).expect("staging");
        staging.append_own(&bob, draft).expect("appended");
        staging.enqueue().expect("enqueued").durable().await.expect("durable");
    }
    network.deliver().await;
    assert_eq!(bodies(&one, &room_id), ["spam before", "signed", "past the policy server"]);
    // Without it nothing can be sent, until the room chooses otherwise.
    network.set_down(&policy, true);
    assert!(one.send(&alice, &room_id, text("alone")).await.is_err());
    let none = EventDraft::state("m.room.policy".to_owned(), "", content(json!({})));
    one.send(&alice, &room_id, none).await.expect("no policy server any more");
    one.send(&alice, &room_id, text("alone")).await.expect("sent");
}

#[tokio::test]
async fn event_whose_past_cannot_be_had_is_kept_and_tried_again() {
    let (network, (one, alice), (two, bob)) = two_servers();
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    join_from(&two, &bob, &room_id, &one).await;
    network.deliver().await;

    // The first of two messages is lost, and when the second comes its server cannot be asked for it.
    network.lose_queued(&one).await;
    one.send(&alice, &room_id, text("lost")).await.expect("send");
    network.lose_queued(&one).await;
    let second = one.send(&alice, &room_id, text("second")).await.expect("send");
    let raw = one.get_event_for_server(two.server_name(), &second.event_id).expect("event");
    network.set_down(&one, true);
    network.asked.lock().clear();
    two.receive_pdu(one.server_name(), &room_id, &raw).await.expect("kept for later");
    assert_eq!(*network.asked.lock(), ["get_missing_events"], "no state is asked for");
    assert!(bodies(&two, &room_id).is_empty());

    network.set_down(&one, false);
    assert_eq!(two.retry_left_out().await.expect("retry"), 0, "not due yet");
    network.clock.advance(61_000);
    assert_eq!(two.retry_left_out().await.expect("retry"), 1);
    assert_eq!(bodies(&two, &room_id), ["lost", "second"]);
    network.clock.advance(86_400_000);
    assert_eq!(two.retry_left_out().await.expect("retry"), 0, "nothing is left");
}

#[tokio::test]
async fn events_left_out_follow_soon_after_the_event_before_them_arrived() {
    let (network, (one, alice), (two, bob)) = two_servers();
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    join_from(&two, &bob, &room_id, &one).await;
    network.deliver().await;
    let mut raws = Vec::new();
    for body in ["first", "second", "third"] {
        let sent = one.send(&alice, &room_id, text(body)).await.expect("send");
        raws.push(one.get_event_for_server(two.server_name(), &sent.event_id).expect("event"));
    }
    network.lose_queued(&one).await;
    network.set_down(&one, true);
    for raw in raws.iter().rev() {
        two.receive_pdu(one.server_name(), &room_id, raw).await.expect("received");
    }
    for expected in [&["first"][..], &["first", "second"], &["first", "second", "third"]] {
        assert_eq!(bodies(&two, &room_id), expected);
        network.clock.advance(11_000);
        two.retry_left_out().await.expect("retry");
    }
}

/// `FORKS` says how many there are (200).
#[tokio::test]
async fn room_with_very_many_forward_extremities_recovers() {
    let count: usize = std::env::var("FORKS").ok().and_then(|count| count.parse().ok()).unwrap_or(200);
    let network = Network::new();
    let (one, two, three) = (network.add("one.example"), network.add("two.example"), network.add("three.example"));
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    for (server, name) in [(&two, "bob"), (&three, "carol")] {
        let via = [one.server_name().to_owned()];
        server.join(&user(server, name), &room_id, &via, &MemberProfile::default(), None).await.expect("join");
        network.deliver().await;
    }
    let levels = json!({ "users": { alice.as_str(): 100, bob.as_str(): 50 } });
    one.send(&alice, &room_id, EventDraft::state("m.room.power_levels", "", content(levels))).await.expect("send");
    network.deliver().await;

    // Every one of them follows the same event, as if the server had never seen the others.
    let room = two.require_room(&room_id).expect("room");
    let staging = Staging::begin(&two, room.clone()).expect("staging");
    let forks = (0..count).map(|n| {
        let draft = if n % 100 == 0 { set_topic(&format!("topic {n}")) } else { text(&format!("fork {n}")) };
        let mut object = staging.template(&bob, &draft).expect("template");
        object.insert("origin_server_ts".to_owned(), integer(network.clock.now_ms()));
        two.sign_new_event(object, &room.rules).expect("event").to_federation_raw().expect("raw")
    });
    let forks: Vec<_> = forks.collect();
    for fork in &forks {
        one.receive_pdu(two.server_name(), &room_id, fork).await.expect("receive");
    }
    for fork in forks.iter().rev() {
        three.receive_pdu(two.server_name(), &room_id, fork).await.expect("receive");
    }
    let extremities =
        |server: &crate::Rooms| server.require_room(&room_id).expect("room").record.forward_extremities.len();
    assert_eq!((extremities(&one), extremities(&three)), (count, count));
    check_topology(&three, &room_id);
    assert_eq!(state_of(&one, &room_id), state_of(&three, &room_id), "whatever order they came in");

    let mut sends = 0;
    while extremities(&one) > 1 {
        let draft = if sends == 1 { set_topic("together again") } else { text("together again") };
        one.send(&alice, &room_id, draft).await.expect("send");
        sends += 1;
        assert!(sends <= count / 19 + 1, "each event brings twenty of them together");
    }
    for row in one.store().scan(&OUTGOING, &(three.server_name().to_owned(),), Direction::Forward) {
        let (_, OutgoingItem::Pdu(nid)) = row.expect("row") else { continue };
        let event = one.get_event_by_nid(nid).expect("read").expect("event");
        let raw = event.pdu.to_federation_raw().expect("raw");
        three.receive_pdu(one.server_name(), &room_id, &raw).await.expect("receive");
    }
    assert_eq!(extremities(&three), 1);
    assert_eq!(state_of(&one, &room_id), state_of(&three, &room_id));
}
