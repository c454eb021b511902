use chappe_store::Position;
use ruma::{RoomId, RoomVersionId, UserId, api::Direction};
use serde_json::Value;

use super::network::{Network, check_topology, public_room, text, user};
use crate::{Rooms, membership::MemberProfile, paging::PageRequest, timeline::Token};

/// What a client is given that pages from one token to another, in pages of `limit`.
async fn walk(rooms: &Rooms, room: &RoomId, reader: &UserId, from: Token, to: Token, limit: usize) -> Vec<String> {
    let room = rooms.require_room(room).expect("room");
    let (mut bodies, mut next) = (Vec::new(), Some(from));
    while let Some(from) = next {
        let request = PageRequest {
            from: rooms.get_place_of_token(room.nid, from).expect("place"),
            to: Some(to),
            up_to: from.up_to(),
            direction: Direction::Backward,
            limit,
        };
        let page = rooms.get_visible_page(&room, reader, request, |_| Ok(true)).await.expect("page");
        for (_, event) in page.events {
            bodies.push(event.pdu.get_content::<Value>().expect("content")["body"].as_str().expect("body").to_owned());
        }
        // As it comes back from the client.
        next = page.end.map(|token| token.to_string().parse().expect("token"));
    }
    bodies
}

#[tokio::test]
async fn paging_between_positions_gives_what_came_between_them_however_late_it_came() {
    let network = Network::new();
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let room = public_room(&one, &alice, RoomVersionId::V11).await;
    two.join(&bob, &room, &[one.server_name().to_owned()], &MemberProfile::default(), None).await.expect("join");
    network.deliver().await;
    let now = || Token::Stream(one.store().durable_position());

    let joined = now();
    network.set_down(&two, true);
    two.send(&bob, &room, text("late 1")).await.expect("send");
    two.send(&bob, &room, text("late 2")).await.expect("send");
    let mut during = Vec::new();
    for number in 0..30 {
        during.push(format!("during {number}"));
        one.send(&alice, &room, text(&format!("during {number}"))).await.expect("send");
    }
    during.reverse();
    let cut = now();
    network.set_down(&two, false);
    network.deliver().await;
    let arrived = now();
    one.send(&alice, &room, text("after")).await.expect("send");
    network.deliver().await;

    for limit in [1, 2, 100] {
        let given = async |from, to| walk(&one, &room, &alice, from, to, limit).await;
        assert_eq!(given(cut, joined).await, during, "pages of {limit}");
        assert_eq!(given(arrived, cut).await, ["late 2", "late 1"], "pages of {limit}");
        assert_eq!(given(now(), cut).await, ["after", "late 2", "late 1"], "pages of {limit}");
        assert_eq!(given(now(), arrived).await, ["after"], "pages of {limit}");
        assert_eq!(given(now(), joined).await.len(), during.len() + 3, "pages of {limit}");
        assert_eq!(given(now(), Token::Stream(Position::MAX)).await, Vec::<String>::new());
    }
    check_topology(&one, &room);
}

#[tokio::test]
async fn paging_to_a_position_gives_what_filled_a_gap_since() {
    let network = Network::new();
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let room = public_room(&one, &alice, RoomVersionId::V11).await;
    two.join(&bob, &room, &[one.server_name().to_owned()], &MemberProfile::default(), None).await.expect("join");
    network.deliver().await;
    network.set_down(&two, true);
    let mut last = None;
    for number in 0..300 {
        last = Some(one.send(&alice, &room, text(&format!("elsewhere {number}"))).await.expect("send").event_id);
    }
    // Here the room has gone deeper meanwhile.
    for number in 0..60 {
        two.send(&bob, &room, text(&format!("here {number}"))).await.expect("send");
    }
    network.lose_queued(&one).await;
    network.lose_queued(&two).await;
    network.set_down(&two, false);
    let now = || Token::Stream(two.store().durable_position());
    let before = now();

    // Only the last of the lost events comes by itself, and the gap is too wide for it, and for one page, to bring the others.
    let last = one.get_event(&last.expect("sent")).expect("read").expect("event");
    two.receive_pdu(one.server_name(), &room, &last.pdu.to_federation_raw().expect("raw")).await.expect("receive");
    let elsewhere: Vec<_> = (0..300).rev().map(|number| format!("elsewhere {number}")).collect();
    for limit in [7, 100] {
        assert_eq!(walk(&two, &room, &bob, now(), before, limit).await, elsewhere, "pages of {limit}");
    }
    check_topology(&two, &room);
}
