use chappe_protocol::clock::ManualClock;
use chappe_store::{
    EventNid,
    ids::Order,
    tables::{
        events::{EventRecord, EventStatus},
        outgoing::{OUTGOING, OutgoingItem},
    },
};
use ruma::{event_id, room_id, server_name, user_id};

use super::*;
use crate::ephemeral_tests::join;

fn the_room() -> &'static RoomId {
    room_id!("!r:a.example")
}

fn alice() -> &'static UserId {
    user_id!("@alice:a.example")
}

fn carol() -> &'static UserId {
    user_id!("@carol:a.example")
}

fn bob() -> &'static UserId {
    user_id!("@bob:b.example")
}

struct Setup {
    receipts: Receipts,
    store: Store,
    room: RoomNid,
}

/// A room with events `$1`, `$2`, `$3`, in this order.
async fn setup() -> Setup {
    let store = Store::in_memory();
    let room = join(&store, the_room(), &[alice(), carol(), bob()]).await;
    for number in 1..=3u64 {
        let event_id = OwnedEventId::try_from(format!("${number}")).unwrap();
        put_event(&store, room, EventNid(number), event_id, Order::Live(Position(1000 + number))).await;
    }
    let receipts = Receipts::new(store.clone(), server_name!("a.example").to_owned(), Arc::new(ManualClock::new(5000)));
    Setup { receipts, store, room }
}

async fn put_event(store: &Store, room: RoomNid, nid: EventNid, event_id: OwnedEventId, order: Order) {
    let record = EventRecord {
        room,
        event_id: event_id.clone(),
        status: EventStatus::Accepted,
        depth: 1,
        redacted_because: None,
        state_before: None,
        state_after: None,
        auth_events: Vec::new(),
        reason: None,
        sent_by: None,
    };
    let mut batch = Batch::new();
    batch.put(&EVENTS, &nid, &record);
    batch.put(&EVENT_NIDS, &event_id, &nid);
    batch.put(&EVENT_ORDERS, &nid, &order);
    store.commit(batch).await.unwrap();
}

impl Setup {
    async fn set(&self, user_id: &UserId, kind: ReceiptKind, thread: Thread, event_id: &str) {
        let event_id = OwnedEventId::try_from(event_id).unwrap();
        self.receipts.set(the_room(), user_id, kind, &thread, &event_id).await.unwrap();
    }

    fn seen_by(&self, viewer: &UserId, after: Position) -> Vec<JsonValue> {
        contents(&self.receipts.scan_receipts(self.room, viewer, after, self.store.durable_position()).unwrap())
    }

    fn outgoing(&self) -> Vec<(OwnedServerName, OutgoingItem)> {
        self.store
            .scan(&OUTGOING, &(), Direction::Forward)
            .map(|row| row.map(|((server, _), item)| (server, item)).unwrap())
            .collect()
    }
}

#[tokio::test]
async fn newer_receipt_takes_the_place_of_the_older() {
    let setup = setup().await;
    setup.set(alice(), ReceiptKind::Public, Thread::Unthreaded, "$1").await;
    let between = setup.store.durable_position();
    setup.set(alice(), ReceiptKind::Public, Thread::Unthreaded, "$2").await;
    let expected = json!([{ "$2": { "m.read": { "@alice:a.example": { "ts": 5000 } } } }]);
    assert_eq!(json!(setup.seen_by(bob(), Position::ZERO)), expected);
    assert_eq!(json!(setup.seen_by(bob(), between)), expected);
    assert!(setup.seen_by(bob(), setup.store.durable_position()).is_empty());
}

#[tokio::test]
async fn receipt_does_not_move_backwards() {
    let setup = setup().await;
    setup.set(alice(), ReceiptKind::Public, Thread::Unthreaded, "$3").await;
    let before = setup.store.durable_position();
    setup.set(alice(), ReceiptKind::Public, Thread::Unthreaded, "$1").await;
    assert!(setup.seen_by(bob(), before).is_empty());
    assert_eq!(setup.outgoing().len(), 1);
}

#[tokio::test]
async fn private_receipt_is_seen_by_its_user_only_and_never_sent() {
    let setup = setup().await;
    setup.set(alice(), ReceiptKind::Private, Thread::Unthreaded, "$2").await;
    assert!(setup.seen_by(carol(), Position::ZERO).is_empty());
    assert_eq!(
        json!(setup.seen_by(alice(), Position::ZERO)),
        json!([{ "$2": { "m.read.private": { "@alice:a.example": { "ts": 5000 } } } }])
    );
    assert!(setup.outgoing().is_empty());
}

#[tokio::test]
async fn threads_have_receipts_of_their_own() {
    let setup = setup().await;
    setup.set(alice(), ReceiptKind::Public, Thread::Unthreaded, "$3").await;
    setup.set(alice(), ReceiptKind::Public, Thread::Main, "$3").await;
    setup.set(alice(), ReceiptKind::Public, Thread::Root(event_id!("$1").to_owned()), "$2").await;
    assert_eq!(
        json!(setup.seen_by(bob(), Position::ZERO)),
        json!([
            {
                "$3": { "m.read": { "@alice:a.example": { "ts": 5000 } } },
                "$2": { "m.read": { "@alice:a.example": { "ts": 5000, "thread_id": "$1" } } },
            },
            { "$3": { "m.read": { "@alice:a.example": { "ts": 5000, "thread_id": "main" } } } },
        ])
    );
    assert_eq!(setup.receipts.scan_own(setup.room, alice()).unwrap().len(), 3);
}

#[tokio::test]
async fn public_receipt_is_queued_for_the_rooms_other_servers() {
    let setup = setup().await;
    setup.set(alice(), ReceiptKind::Public, Thread::Main, "$2").await;
    let outgoing = setup.outgoing();
    let [(server, OutgoingItem::CoalescedEdu { edu, .. })] = outgoing.as_slice() else { panic!("{outgoing:?}") };
    assert_eq!(server, "b.example");
    assert_eq!(
        serde_json::from_str::<JsonValue>(edu).unwrap(),
        json!({
            "edu_type": "m.receipt",
            "content": { "!r:a.example": { "m.read": { "@alice:a.example": {
                "data": { "ts": 5000, "thread_id": "main" }, "event_ids": ["$2"],
            } } } },
        })
    );
}

#[tokio::test]
async fn stranger_or_other_rooms_event_is_refused() {
    let setup = setup().await;
    let eve = user_id!("@eve:a.example");
    let refused = setup.receipts.set(the_room(), eve, ReceiptKind::Public, &Thread::Unthreaded, event_id!("$1")).await;
    assert!(matches!(refused, Err(SetReceiptError::NotJoined)));
    let elsewhere = join(&setup.store, room_id!("!s:a.example"), &[alice()]).await;
    put_event(&setup.store, elsewhere, EventNid(9), event_id!("$9").to_owned(), Order::Live(Position(1))).await;
    let refused =
        setup.receipts.set(the_room(), alice(), ReceiptKind::Public, &Thread::Unthreaded, event_id!("$9")).await;
    assert!(matches!(refused, Err(SetReceiptError::WrongRoom)));
}

#[tokio::test]
async fn edu_is_believed_only_about_the_origins_members_and_survives_malformed_parts() {
    let setup = setup().await;
    let edu = json!({
        "!r:a.example": { "m.read": {
            "@bob:b.example": { "data": { "ts": 7 }, "event_ids": ["$2"] },
            "@alice:a.example": { "data": { "ts": 7 }, "event_ids": ["$2"] },
            "@stranger:b.example": { "data": { "ts": 7 }, "event_ids": ["$2"] },
            "not a user": 5,
        }, "m.read.private": { "@bob:b.example": { "data": { "ts": 7 }, "event_ids": ["$2"] } } },
        "!unknown:b.example": { "m.read": { "@bob:b.example": { "event_ids": ["$2"] } } },
        "nonsense": [],
    });
    setup.receipts.apply_edu(server_name!("b.example"), &edu).await.unwrap();
    assert_eq!(
        json!(setup.seen_by(alice(), Position::ZERO)),
        json!([{ "$2": { "m.read": { "@bob:b.example": { "ts": 7 } } } }])
    );
    let bad_thread = json!({ "!r:a.example": { "m.read": {
        "@bob:b.example": { "data": { "ts": 8, "thread_id": "" }, "event_ids": ["$3"] } } } });
    setup.receipts.apply_edu(server_name!("b.example"), &bad_thread).await.unwrap();
    assert_eq!(setup.receipts.scan_own(setup.room, bob()).unwrap().len(), 1);
    assert!(setup.outgoing().is_empty());
}

#[tokio::test]
async fn receipts_for_what_is_not_known_here_are_told_as_they_came() {
    let setup = setup().await;
    let receive = async |event_id: &str| {
        let edu = json!({ "!r:a.example": { "m.read": {
            "@bob:b.example": { "data": { "ts": 5 }, "event_ids": [event_id] } } } });
        setup.receipts.apply_edu(server_name!("b.example"), &edu).await.unwrap();
        json!(setup.seen_by(alice(), Position::ZERO))
    };
    let told = |event_id: &str| json!([{ event_id: { "m.read": { "@bob:b.example": { "ts": 5 } } } }]);
    for event_id in ["$2", "$not-here-yet", "of another kind", "$3"] {
        assert_eq!(receive(event_id).await, told(event_id));
    }
    for event_id in ["", "with\0zero", &"x".repeat(256)] {
        assert_eq!(receive(event_id).await, told("$3"), "what no id can be is passed over");
    }
}

#[tokio::test]
async fn fully_read_marker_is_room_account_data_and_moves_forward_only() {
    let setup = setup().await;
    let account_data = account_data::AccountData::new(setup.store.clone());
    let marker = || account_data.get(alice(), Some(the_room()), "m.fully_read").unwrap();
    setup.receipts.set_fully_read(the_room(), alice(), event_id!("$2")).await.unwrap();
    assert_eq!(marker().as_deref(), Some(r#"{"event_id":"$2"}"#));
    setup.receipts.set_fully_read(the_room(), alice(), event_id!("$1")).await.unwrap();
    assert_eq!(marker().as_deref(), Some(r#"{"event_id":"$2"}"#));
    setup.receipts.set_fully_read(the_room(), alice(), event_id!("$3")).await.unwrap();
    assert_eq!(marker().as_deref(), Some(r#"{"event_id":"$3"}"#));
    let refused = setup.receipts.set_fully_read(the_room(), alice(), event_id!("$unknown")).await;
    assert!(matches!(refused, Err(SetReceiptError::WrongRoom)));
}

#[test]
fn thread_ids_are_main_or_event_ids() {
    assert_eq!(Thread::parse("main"), Some(Thread::Main));
    assert_eq!(Thread::parse("$root"), Some(Thread::Root(event_id!("$root").to_owned())));
    assert_eq!(Thread::parse(""), None);
    assert_eq!(Thread::parse("other"), None);
}
