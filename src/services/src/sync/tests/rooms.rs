//! Timelines and states of joined rooms.

use super::*;

#[tokio::test]
async fn a_message_appears_once() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    server.say(alice(), &room, "one").await;
    let second = server.after(bob(), &first).await;
    assert_eq!(timeline(&second, "join", &room), ["one"]);
    let part = &second["rooms"]["join"][room.as_str()];
    assert_eq!(part["timeline"]["limited"], false);
    assert!(part.get("summary").is_none() && part["state"]["events"] == json!([]), "{part}");
    assert!(part["timeline"]["events"][0].get("room_id").is_none());
    let third = server.after(bob(), &second).await;
    assert!(third.get("rooms").is_none(), "{third}");
    // A token stays good: the same question has the same answer.
    assert_eq!(timeline(&server.after(bob(), &first).await, "join", &room), ["one"]);
}

#[tokio::test]
async fn first_sync_has_the_state_before_its_timeline_and_the_summary() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    server.say(alice(), &room, "one").await;
    server.say(alice(), &room, "two").await;
    let answer = server.ask(limited_to(bob(), None, 2)).await;
    assert_eq!(timeline(&answer, "join", &room), ["one", "two"]);
    let part = &answer["rooms"]["join"][room.as_str()];
    assert_eq!(part["timeline"]["limited"], true);
    assert_eq!(
        part["summary"],
        json!({ "m.heroes": [alice()], "m.joined_member_count": 2, "m.invited_member_count": 0 })
    );
    let state = state(&answer, "join", &room);
    assert!(
        state.contains(&"join @bob:here.example".to_owned()) && state.contains(&"m.room.create".to_owned()),
        "{state:?}"
    );
    // A timeline that reaches back to the beginning needs no state.
    let whole = server.ask(limited_to(bob(), None, 100)).await;
    assert_eq!(whole["rooms"]["join"][room.as_str()]["state"]["events"], json!([]));
    assert_eq!(whole["rooms"]["join"][room.as_str()]["timeline"]["limited"], false);
}

#[tokio::test]
async fn a_gap_is_limited_and_prev_batch_leads_to_what_was_left_out() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    for body in ["1", "2", "3", "4", "5"] {
        server.say(alice(), &room, body).await;
    }
    let second = server.ask(limited_to(bob(), Some(&first), 2)).await;
    assert_eq!(timeline(&second, "join", &room), ["4", "5"]);
    let part = &second["rooms"]["join"][room.as_str()]["timeline"];
    assert_eq!(part["limited"], true);
    let token: Token = part["prev_batch"].as_str().unwrap().parse().unwrap();
    let nid = server.rooms.get_room_nid(&room).unwrap().unwrap();
    let place = server.rooms.get_place_of_token(nid, token).unwrap();
    let page = server.rooms.get_page(nid, place, Direction::Reverse, 3).unwrap();
    let bodies: Vec<Value> =
        page.iter().map(|(_, event)| event.pdu.get_content::<Value>().unwrap()["body"].clone()).collect();
    assert_eq!(bodies, ["3", "2", "1"]);
    // Exactly as many as fit are no gap.
    let all = server.ask(limited_to(bob(), Some(&first), 5)).await;
    assert_eq!(all["rooms"]["join"][room.as_str()]["timeline"]["limited"], false);
}

#[tokio::test]
async fn state_that_changed_in_a_gap_is_told_and_state_in_the_timeline_is_not() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    server.name(&room, "A").await;
    server.say(alice(), &room, "1").await;
    let in_timeline = server.after(bob(), &first).await;
    assert_eq!(timeline(&in_timeline, "join", &room), ["m.room.name", "1"]);
    assert_eq!(state(&in_timeline, "join", &room), Vec::<String>::new());
    let in_gap = server.ask(limited_to(bob(), Some(&first), 1)).await;
    assert_eq!(timeline(&in_gap, "join", &room), ["1"]);
    assert_eq!(state(&in_gap, "join", &room), ["m.room.name"]);
    // A name that was in force at the start of the timeline, and changes within it.
    server.name(&room, "B").await;
    let both = server.ask(limited_to(bob(), Some(&first), 2)).await;
    assert_eq!(timeline(&both, "join", &room), ["1", "m.room.name"]);
    assert_eq!(both["rooms"]["join"][room.as_str()]["state"]["events"][0]["content"]["name"], "A");
}

#[tokio::test]
async fn state_after_holds_what_the_timeline_changed() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    server.name(&room, "A").await;
    server.name(&room, "B").await;
    for (style, field) in
        [(StateStyle::After, "state_after"), (StateStyle::AfterUnstable, "org.matrix.msc4222.state_after")]
    {
        let answer = server.ask(SyncRequest { state_style: style, ..request(bob(), Some(&first)) }).await;
        let part = &answer["rooms"]["join"][room.as_str()];
        assert_eq!(part[field]["events"].as_array().unwrap().len(), 1, "{part}");
        assert_eq!(part[field]["events"][0]["content"]["name"], "B");
        assert!(part.get("state").is_none());
    }
    // Present even when empty.
    server.say(alice(), &room, "1").await;
    let second = server.after(bob(), &first).await;
    server.say(alice(), &room, "2").await;
    let answer = server.ask(SyncRequest { state_style: StateStyle::After, ..request(bob(), Some(&second)) }).await;
    assert_eq!(answer["rooms"]["join"][room.as_str()]["state_after"], json!({ "events": [] }));
}

#[tokio::test]
async fn full_state_is_told_of_rooms_without_a_change() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    let answer = server
        .ask(SyncRequest { full_state: true, timeout: Duration::from_secs(30), ..request(bob(), Some(&first)) })
        .await;
    assert_eq!(timeline(&answer, "join", &room), Vec::<String>::new());
    assert!(state(&answer, "join", &room).contains(&"m.room.join_rules".to_owned()));
}

#[tokio::test]
async fn filters_choose_types_senders_rooms_and_fields() {
    let server = Server::new();
    let room = server.room(&[bob(), carol()]).await;
    let other = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    server.name(&room, "A").await;
    server.say(alice(), &room, "from alice").await;
    server.say(carol(), &room, "from carol").await;
    server.say(alice(), &other, "elsewhere").await;
    let messages = server
        .ask(filtered(bob(), Some(&first), json!({ "room": { "timeline": { "types": ["m.room.mess*"] } } })))
        .await;
    assert_eq!(timeline(&messages, "join", &room), ["from alice", "from carol"]);
    // Left out of the timeline, the name is still told.
    assert_eq!(state(&messages, "join", &room), ["m.room.name"]);
    let senders = json!({ "room": { "timeline": { "not_senders": [alice()] }, "rooms": [room] } });
    let answer = server.ask(filtered(bob(), Some(&first), senders)).await;
    assert_eq!(timeline(&answer, "join", &room), ["from carol"]);
    assert!(answer["rooms"]["join"].get(other.as_str()).is_none());
    let fields = json!({ "event_fields": ["type", "content.body"], "room": { "timeline": { "senders": [carol()] }, "not_rooms": [other] } });
    let answer = server.ask(filtered(bob(), Some(&first), fields)).await;
    assert_eq!(
        answer["rooms"]["join"][room.as_str()]["timeline"]["events"],
        json!([{ "type": "m.room.message", "content": { "body": "from carol" } }])
    );
    let second = server.after(bob(), &first).await;
    test_rooms::send(&server.rooms, alice(), &room, "m.reaction", json!({})).await;
    let nothing = json!({ "room": { "timeline": { "types": [] } } });
    assert!(server.ask(filtered(bob(), Some(&second), nothing.clone())).await.get("rooms").is_none());
    // What counts as unread is told even so.
    server.say(alice(), &room, "unwanted").await;
    let answer = server.ask(filtered(bob(), Some(&second), nothing)).await;
    assert!(timeline(&answer, "join", &room).is_empty());
    assert_eq!(answer["rooms"]["join"][room.as_str()]["unread_notifications"]["notification_count"], 3);
}

#[tokio::test]
async fn what_is_kept_of_joined_rooms_follows_joins_and_leaves() {
    let server = Server::new();
    let rooms = JoinedRooms::new(server.rooms.clone(), server.waiters.clone());
    let first = server.room(&[bob()]).await;
    let nid = |room: &RoomId| server.rooms.get_room_nid(room).unwrap().unwrap();
    let before = server.waiters.position();
    assert_eq!(*rooms.get(bob()).unwrap(), [nid(&first)]);
    // What happens to others changes nothing.
    let second = server.room(&[]).await;
    server.say(alice(), &first, "hello").await;
    assert_eq!(*rooms.get_as_of(bob(), server.waiters.position()).unwrap().unwrap(), [nid(&first)]);
    server.join(bob(), &second).await;
    assert_eq!(*rooms.get(bob()).unwrap(), [nid(&first), nid(&second)]);
    assert!(rooms.get_as_of(bob(), before).unwrap().is_none(), "the rows are of later");
    server.rooms.leave(bob(), &first, None).await.unwrap();
    assert_eq!(*rooms.get(bob()).unwrap(), [nid(&second)]);
}
