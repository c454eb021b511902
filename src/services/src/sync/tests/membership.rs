//! Coming into rooms and out of them: invites, joins, leaves, bans, and what is shown of the time before.

use super::*;

#[tokio::test]
async fn an_invite_is_told_with_stripped_state_until_it_is_taken() {
    let server = Server::new();
    let room = server.create(Preset::PrivateChat).await;
    let before = server.initial(bob()).await;
    server.name(&room, "Office").await;
    server.rooms.invite(alice(), &room, bob(), None).await.unwrap();
    for answer in [server.after(bob(), &before).await, server.initial(bob()).await] {
        let events = &answer["rooms"]["invite"][room.as_str()]["invite_state"]["events"];
        let told = told(events);
        for expected in ["m.room.name", "m.room.create", "join @alice:here.example", "invite @bob:here.example"] {
            assert!(told.iter().any(|told| told == expected), "{expected}: {told:?}");
        }
        assert!(answer["rooms"].get("join").is_none());
    }
    let invited = server.after(bob(), &before).await;
    assert!(server.after(bob(), &invited).await.get("rooms").is_none());
    server.join(bob(), &room).await;
    let joined = server.after(bob(), &invited).await;
    assert!(joined["rooms"].get("invite").is_none());
    let part = &joined["rooms"]["join"][room.as_str()];
    assert_eq!(part["timeline"]["limited"], true);
    assert_eq!(timeline(&joined, "join", &room).last().unwrap(), "join @bob:here.example");
}

#[tokio::test]
async fn invites_and_messages_of_ignored_users_are_left_out() {
    let server = Server::new();
    let room = server.room(&[bob(), carol()]).await;
    let first = server.initial(bob()).await;
    let ignore = RawValue::from_string(json!({ "ignored_users": { alice(): {} } }).to_string()).unwrap();
    server.account_data.put(bob(), None, "m.ignored_user_list", &ignore).await.unwrap();
    server.say(alice(), &room, "nothing for bob").await;
    server.say(carol(), &room, "hello").await;
    server.name(&room, "State is told").await;
    let private = server.create(Preset::PrivateChat).await;
    server.rooms.invite(alice(), &private, bob(), None).await.unwrap();
    let second = server.after(bob(), &first).await;
    assert_eq!(timeline(&second, "join", &room), ["hello", "m.room.name"]);
    assert!(second["rooms"].get("invite").is_none());
    assert_eq!(second["account_data"]["events"][0]["type"], "m.ignored_user_list");
}

#[tokio::test]
async fn a_newly_joined_room_comes_with_its_state_and_some_history() {
    let server = Server::new();
    let room = server.room(&[]).await;
    let before = server.initial(bob()).await;
    server.say(alice(), &room, "shared history").await;
    server.join(bob(), &room).await;
    let answer = server.ask(limited_to(bob(), Some(&before), 2)).await;
    assert_eq!(timeline(&answer, "join", &room), ["shared history", "join @bob:here.example"]);
    assert_eq!(answer["rooms"]["join"][room.as_str()]["timeline"]["limited"], true);
    assert!(state(&answer, "join", &room).contains(&"m.room.create".to_owned()));
    assert_eq!(answer["device_lists"]["changed"], json!([alice(), bob()]));
}

#[tokio::test]
async fn a_changed_profile_does_not_make_a_room_newly_joined() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let before = server.initial(bob()).await;
    let profile = MemberProfile { display_name: Some("Bob".to_owned()), avatar_url: None };
    server.rooms.update_profile_in_rooms(bob(), &profile).await.unwrap();
    let answer = server.after(bob(), &before).await;
    assert_eq!(timeline(&answer, "join", &room), ["join @bob:here.example"]);
    let part = &answer["rooms"]["join"][room.as_str()];
    assert_eq!((&part["timeline"]["limited"], &part["state"]["events"]), (&json!(false), &json!([])));
}

#[tokio::test]
async fn leaving_and_coming_back_between_two_syncs_counts_as_newly_joined() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let before = server.initial(bob()).await;
    server.rooms.leave(bob(), &room, None).await.unwrap();
    server.name(&room, "While bob was away").await;
    server.join(bob(), &room).await;
    server.say(alice(), &room, "welcome back").await;
    let answer = server.ask(limited_to(bob(), Some(&before), 1)).await;
    assert_eq!(timeline(&answer, "join", &room), ["welcome back"]);
    let state = state(&answer, "join", &room);
    assert!(state.contains(&"m.room.name".to_owned()) && state.contains(&"m.room.create".to_owned()), "{state:?}");
    assert!(answer["rooms"].get("leave").is_none());
}

#[tokio::test]
async fn a_left_room_is_told_up_to_the_leave_and_once() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    server.say(alice(), &room, "before").await;
    server.rooms.leave(bob(), &room, None).await.unwrap();
    server.say(alice(), &room, "after").await;
    let second = server.after(bob(), &first).await;
    assert_eq!(timeline(&second, "leave", &room), ["before", "leave @bob:here.example"]);
    assert!(second["rooms"].get("join").is_none());
    assert!(server.after(bob(), &second).await.get("rooms").is_none());
    // From the beginning only for who asks for it.
    assert!(server.initial(bob()).await.get("rooms").is_none());
    let archive = json!({ "room": { "include_leave": true, "timeline": { "limit": 2 } } });
    let archived = server.ask(filtered(bob(), None, archive.clone())).await;
    assert_eq!(timeline(&archived, "leave", &room), ["before", "leave @bob:here.example"]);
    assert!(state(&archived, "leave", &room).contains(&"m.room.create".to_owned()));
    assert!(server.ask(filtered(bob(), Some(&second), archive.clone())).await.get("rooms").is_none());
    // Without a timeline the state says how it ended.
    let empty = json!({ "room": { "include_leave": true, "timeline": { "limit": 0 } } });
    let archived = server.ask(filtered(bob(), None, empty)).await;
    assert!(state(&archived, "leave", &room).contains(&"leave @bob:here.example".to_owned()));
    // Forgotten, it is gone; a client that has not heard of the leave still does.
    server.rooms.forget(bob(), &room).await.unwrap();
    assert!(server.ask(filtered(bob(), None, archive)).await.get("rooms").is_none());
    assert_eq!(timeline(&server.after(bob(), &first).await, "leave", &room), ["before", "leave @bob:here.example"]);
}

#[tokio::test]
async fn a_ban_ends_the_room_for_the_banned() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    server.rooms.ban(alice(), &room, bob(), Some("spam".to_owned())).await.unwrap();
    server.name(&room, "Without bob").await;
    let second = server.after(bob(), &first).await;
    assert_eq!(timeline(&second, "leave", &room), ["ban @bob:here.example"]);
    assert_eq!(state(&second, "leave", &room), Vec::<String>::new());
    // A client that starts afresh is told too, as bob did not leave by himself; until the room is forgotten.
    let afresh = server.initial(bob()).await;
    assert_eq!(timeline(&afresh, "leave", &room).last().map(String::as_str), Some("ban @bob:here.example"));
    server.rooms.unban(alice(), &room, bob(), None).await.unwrap();
    let afresh = server.initial(bob()).await;
    assert_eq!(timeline(&afresh, "leave", &room).last().map(String::as_str), Some("leave @bob:here.example"));
    server.rooms.forget(bob(), &room).await.unwrap();
    assert!(server.initial(bob()).await.get("rooms").is_none());
}

#[tokio::test]
async fn who_was_never_in_the_room_is_not_shown_its_state() {
    let server = Server::new();
    let room = server.create(Preset::PrivateChat).await;
    let first = server.initial(bob()).await;
    server.rooms.invite(alice(), &room, bob(), None).await.unwrap();
    server.say(alice(), &room, "secret").await;
    server.rooms.leave(bob(), &room, None).await.unwrap();
    for answer in [
        server.after(bob(), &first).await,
        server.ask(SyncRequest { full_state: true, ..request(bob(), Some(&first)) }).await,
        server.ask(filtered(bob(), None, json!({ "room": { "include_leave": true } }))).await,
    ] {
        assert_eq!(state(&answer, "leave", &room), Vec::<String>::new());
        let timeline = timeline(&answer, "leave", &room);
        assert_eq!(timeline.last().map(String::as_str), Some("leave @bob:here.example"));
        assert!(
            !timeline.contains(&"secret".to_owned()) && !timeline.contains(&"m.room.create".to_owned()),
            "{timeline:?}"
        );
    }
}

#[tokio::test]
async fn an_invite_over_federation_is_told_and_so_is_its_end() {
    let server = Server::new();
    let before = server.initial(bob()).await;
    let rules = room_version::rules(&RoomVersionId::V11).unwrap();
    let room = ruma::room_id!("!far:there.example");
    let mut event = canonical_content(
        &json!({
            "type": "m.room.member", "state_key": bob(), "sender": "@mallory:there.example", "room_id": room,
            "content": { "membership": "invite" }, "depth": 7, "origin_server_ts": 1_700_000_000_000_u64,
            "auth_events": [], "prev_events": [],
        })
        .to_string(),
    )
    .unwrap();
    server.there.hash_and_sign_event(&mut event, &rules).unwrap();
    let pdu = chappe_protocol::pdu::Pdu::from_object(event.clone(), &rules).unwrap();
    let event = serde_json::value::to_raw_value(&event).unwrap();
    let stripped = vec![
        json!({ "type": "m.room.name", "state_key": "", "sender": "@mallory:there.example", "content": { "name": "Far" }, "hashes": {} }),
    ];
    server
        .rooms
        .receive_invite(server_name!("there.example"), room, &pdu.event_id, &RoomVersionId::V11, &event, stripped)
        .await
        .unwrap();
    let invited = server.after(bob(), &before).await;
    let events = &invited["rooms"]["invite"][room.as_str()]["invite_state"]["events"];
    assert_eq!(told(events), ["m.room.name", "invite @bob:here.example"]);
    assert!(events[0].get("hashes").is_none());
    server.rooms.leave(bob(), room, None).await.unwrap();
    let left = server.after(bob(), &invited).await;
    assert_eq!(timeline(&left, "leave", room), ["leave @bob:here.example"]);
    assert!(server.initial(bob()).await.get("rooms").is_none());
}

#[tokio::test]
async fn history_before_a_join_is_hidden_where_the_room_says_so() {
    let server = Server::new();
    let room = server.room(&[]).await;
    let content = canonical_content(r#"{"history_visibility":"joined"}"#).unwrap();
    let draft = EventDraft::state(StateEventType::RoomHistoryVisibility.to_string(), "", content);
    server.rooms.send(alice(), &room, draft).await.unwrap();
    server.say(alice(), &room, "hidden").await;
    let before = server.initial(bob()).await;
    server.join(bob(), &room).await;
    server.say(alice(), &room, "shown").await;
    for answer in [server.after(bob(), &before).await, server.ask(limited_to(bob(), None, 3)).await] {
        let timeline = timeline(&answer, "join", &room);
        assert!(timeline.ends_with(&["join @bob:here.example".to_owned(), "shown".to_owned()]), "{timeline:?}");
        assert!(!timeline.contains(&"hidden".to_owned()));
    }
}
