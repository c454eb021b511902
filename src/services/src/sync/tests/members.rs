//! Lazy-loaded members, heroes and summaries.

use super::*;

#[tokio::test]
async fn lazy_loading_tells_of_those_who_speak_and_of_each_once() {
    let server = Server::new();
    let room = server.room(&[bob(), carol()]).await;
    server.name(&room, "Named, so that nobody stands for it").await;
    server.say(alice(), &room, "1").await;
    let lazy = |redundant: bool| {
        json!({ "room": {
            "timeline": { "limit": 1 },
            "state": { "types": ["m.room.member"], "lazy_load_members": true, "include_redundant_members": redundant },
        } })
    };
    let first = server.ask(filtered(bob(), None, lazy(false))).await;
    assert_eq!(state(&first, "join", &room), ["join @alice:here.example", "join @bob:here.example"]);
    server.say(carol(), &room, "2").await;
    let second = server.ask(filtered(bob(), Some(&first), lazy(false))).await;
    assert_eq!(state(&second, "join", &room), ["join @carol:here.example"]);
    server.say(carol(), &room, "3").await;
    let third = server.ask(filtered(bob(), Some(&second), lazy(false))).await;
    assert_eq!(state(&third, "join", &room), Vec::<String>::new());
    let redundant = server.ask(filtered(bob(), Some(&second), lazy(true))).await;
    assert_eq!(state(&redundant, "join", &room), ["join @carol:here.example"]);
    // The answers after the first got lost.
    let again = server.ask(filtered(bob(), Some(&first), lazy(false))).await;
    assert_eq!(state(&again, "join", &room), ["join @carol:here.example"]);
    // Who changed in a gap is told, whether or not they speak.
    server.rooms.leave(carol(), &room, None).await.unwrap();
    server.say(alice(), &room, "4").await;
    let gap = server.ask(filtered(bob(), Some(&again), lazy(false))).await;
    assert!(state(&gap, "join", &room).contains(&"leave @carol:here.example".to_owned()));
}

#[tokio::test]
async fn heroes_come_with_their_members_when_lazy() {
    let server = Server::new();
    let room = server.room(&[bob(), carol()]).await;
    server.say(bob(), &room, "1").await;
    let filter = json!({ "room": { "timeline": { "limit": 1 }, "state": { "types": ["m.room.member"], "lazy_load_members": true } } });
    let first = server.ask(filtered(bob(), None, filter)).await;
    assert_eq!(first["rooms"]["join"][room.as_str()]["summary"]["m.heroes"], json!([alice(), carol()]));
    assert_eq!(
        state(&first, "join", &room),
        ["join @alice:here.example", "join @bob:here.example", "join @carol:here.example"]
    );
}

#[tokio::test]
async fn summary_is_told_again_when_members_change() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    server.join(carol(), &room).await;
    let second = server.after(bob(), &first).await;
    let summary = &second["rooms"]["join"][room.as_str()]["summary"];
    assert_eq!(
        summary,
        &json!({ "m.heroes": [alice(), carol()], "m.joined_member_count": 3, "m.invited_member_count": 0 })
    );
}
