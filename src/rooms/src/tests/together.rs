//! Messages that wait for the same room are sent in one batch.

use std::pin::Pin;

use futures_util::{FutureExt, future::join_all, poll};
use ruma::RoomVersionId;
use serde_json::json;

use super::network::{Network, bodies, content, public_room, text, user};
use crate::{EventDraft, RoomError, Sent, membership::MemberProfile, send::transaction};

type Sending<'a> = Pin<Box<dyn Future<Output = Result<Sent, RoomError>> + Send + 'a>>;

/// Starts each of them while the room is being written to, so that they wait in this order.
async fn start(sendings: &mut [Sending<'_>]) {
    for sending in sendings {
        assert!(poll!(sending).is_pending());
    }
}

#[tokio::test]
async fn all_that_wait_are_sent_in_their_order_by_one_batch() {
    let server = Network::new().add("one.example");
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    let writing = server.locks.write(&room_id).await;
    let draft =
        |body: &str, id: &str| EventDraft { transaction: Some(transaction("PHONE".into(), id.into())), ..text(body) };
    let mut sendings = vec![
        server.send(&alice, &room_id, draft("one", "t1")).boxed(),
        server.send(&bob, &room_id, draft("not a member", "t1")).boxed(),
        server.send(&alice, &room_id, draft("two", "t2")).boxed(),
        server.send(&alice, &room_id, draft("one again", "t1")).boxed(),
        server.send(&alice, &room_id, draft("given up", "t3")).boxed(),
        server.send(&alice, &room_id, draft("three", "t4")).boxed(),
    ];
    start(&mut sendings).await;
    drop(sendings.remove(4));
    drop(writing);

    let sent: Vec<_> = join_all(sendings).await;
    let [one, stranger, two, again, three] = &sent[..] else { panic!("{sent:?}") };
    assert!(matches!(stranger, Err(RoomError::Forbidden(_))), "{stranger:?}");
    let ids: Vec<_> = [one, two, three].map(|sent| sent.as_ref().expect("sent").event_id.clone()).into();
    assert_eq!(again.as_ref().expect("answered").event_id, ids[0]);
    assert_eq!(bodies(&server, &room_id), ["one", "two", "three"]);
    let events: Vec<_> = ids.iter().map(|id| server.get_event(id).expect("read").expect("event")).collect();
    assert_eq!(events[1].pdu.prev_events, [ids[0].clone()]);
    assert_eq!(events[2].pdu.prev_events, [ids[1].clone()]);
    let orders: Vec<_> =
        events.iter().map(|event| server.get_event_order(event.nid).expect("read").expect("order")).collect();
    assert!(orders.is_sorted(), "{orders:?}");
    let room = server.require_room(&room_id).expect("room");
    assert_eq!(room.record.forward_extremities.len(), 1);
    assert_eq!(room.record.forward_extremities[0].1, ids[2]);
}

#[tokio::test]
async fn one_that_cannot_be_written_takes_no_other_with_it() {
    let server = Network::new().add("one.example");
    let alice = user(&server, "alice");
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    let writing = server.locks.write(&room_id).await;
    let unwritable = EventDraft { transaction: Some(transaction("PHONE".into(), "t\0".into())), ..text("unwritable") };
    let mut sendings = vec![
        server.send(&alice, &room_id, text("before")).boxed(),
        server.send(&alice, &room_id, unwritable).boxed(),
        server.send(&alice, &room_id, text("after")).boxed(),
    ];
    start(&mut sendings).await;
    drop(writing);
    let sent: Vec<_> = join_all(sendings).await;
    assert_eq!(sent.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true], "{sent:?}");
    assert_eq!(bodies(&server, &room_id), ["before", "after"]);
}

#[tokio::test]
async fn annotation_is_refused_beside_its_like() {
    let server = Network::new().add("one.example");
    let alice = user(&server, "alice");
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    let target = server.send(&alice, &room_id, text("hear, hear")).await.expect("sent").event_id;
    let reaction = |key: &str| {
        let relates_to = json!({ "rel_type": "m.annotation", "event_id": target, "key": key });
        EventDraft::message("m.reaction".into(), content(json!({ "m.relates_to": relates_to })))
    };
    let writing = server.locks.write(&room_id).await;
    let mut sendings: Vec<_> =
        ["up", "up", "down"].into_iter().map(|key| server.send(&alice, &room_id, reaction(key)).boxed()).collect();
    start(&mut sendings).await;
    drop(writing);
    let sent: Vec<_> = join_all(sendings).await;
    assert!(matches!(&sent[..], [Ok(_), Err(RoomError::DuplicateAnnotation), Ok(_)]), "{sent:?}");
}

#[tokio::test]
async fn more_than_fit_one_batch_are_all_sent() {
    let server = Network::new().add("one.example");
    let alice = user(&server, "alice");
    let bob = user(&server, "bob");
    let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
    server.join(&bob, &room_id, &[], &MemberProfile::default(), None).await.expect("join");
    let writing = server.locks.write(&room_id).await;
    let texts: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    let mut sendings: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(at, body)| server.send(if at % 2 == 0 { &alice } else { &bob }, &room_id, text(body)).boxed())
        .collect();
    start(&mut sendings).await;
    drop(writing);
    for sent in join_all(sendings).await {
        sent.expect("sent");
    }
    assert_eq!(bodies(&server, &room_id), texts);
}
