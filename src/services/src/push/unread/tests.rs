use chappe_protocol::clock::ManualClock;
use chappe_rooms::create::Preset;
use chappe_store::Store;
use ruma::{OwnedRoomId, RoomId, owned_server_name, user_id};
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{
    receipts::{ReceiptKind, Thread as ReceiptThread},
    test_rooms,
};

fn alice() -> &'static UserId {
    user_id!("@alice:here.example")
}

fn bob() -> &'static UserId {
    user_id!("@bob:here.example")
}

struct Setup {
    store: Store,
    rooms: Rooms,
    receipts: Arc<Receipts>,
    account_data: Arc<AccountData>,
    unread: Unread,
}

fn unread(store: &Store, rooms: &Rooms, receipts: &Arc<Receipts>, account_data: &Arc<AccountData>) -> Unread {
    Unread::new(
        rooms.clone(),
        receipts.clone(),
        account_data.clone(),
        Arc::new(PushRules::new(store.clone())),
        Arc::new(Candidates::new(rooms.clone())),
        Waiters::follow(store),
    )
}

impl Setup {
    fn new() -> Self {
        let store = Store::in_memory();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let rooms = test_rooms::rooms(&store, clock.clone());
        let receipts = Arc::new(Receipts::new(store.clone(), owned_server_name!("here.example"), clock));
        let account_data = Arc::new(AccountData::new(store.clone()));
        let unread = unread(&store, &rooms, &receipts, &account_data);
        Self { store, rooms, receipts, account_data, unread }
    }

    /// A room of Alice's that Bob is in.
    async fn room(&self) -> OwnedRoomId {
        let room = test_rooms::create(&self.rooms, alice(), Preset::PublicChat).await;
        test_rooms::join(&self.rooms, bob(), &room).await;
        room
    }

    async fn say(&self, user: &UserId, room: &RoomId) -> OwnedEventId {
        test_rooms::say(&self.rooms, user, room, "hello").await
    }

    async fn send(&self, user: &UserId, room: &RoomId, content: Value) -> OwnedEventId {
        test_rooms::send(&self.rooms, user, room, "m.room.message", content).await
    }

    async fn reply(&self, room: &RoomId, root: &EventId) -> OwnedEventId {
        self.send(
            alice(),
            room,
            json!({ "body": "in a thread", "m.relates_to": { "rel_type": "m.thread", "event_id": root } }),
        )
        .await
    }

    async fn read(&self, room: &RoomId, kind: ReceiptKind, thread: ReceiptThread, event_id: &EventId) {
        self.receipts.set(room, bob(), kind, &thread, event_id).await.unwrap();
    }

    /// What is unread for Bob; worked out again from nothing, it is the same.
    fn counts(&self, room: &RoomId) -> UnreadCounts {
        let room = self.rooms.get_room(room).unwrap().unwrap();
        let to = self.store.durable_position();
        let counts = self.unread.get_counts(bob(), &room, to).unwrap();
        let anew = unread(&self.store, &self.rooms, &self.receipts, &self.account_data);
        let anew = anew.get_counts(bob(), &room, to).unwrap();
        assert_eq!((counts.main, &counts.threads), (anew.main, &anew.threads));
        counts
    }

    /// The notifications of the room in all.
    fn total(&self, room: &RoomId) -> u64 {
        self.counts(room).total().notifications
    }
}

#[tokio::test]
async fn messages_count_until_a_receipt_covers_them() {
    let setup = Setup::new();
    let room = setup.room().await;
    assert_eq!(setup.total(&room), 0, "joining is no notification");
    let first = setup.say(alice(), &room).await;
    setup.say(alice(), &room).await;
    assert_eq!(setup.total(&room), 2);
    setup.read(&room, ReceiptKind::Public, ReceiptThread::Unthreaded, &first).await;
    assert_eq!(setup.total(&room), 1);
    let third = setup.say(alice(), &room).await;
    setup.read(&room, ReceiptKind::Private, ReceiptThread::Unthreaded, &third).await;
    assert_eq!(setup.total(&room), 0, "a private receipt ahead of the public one counts");
    setup.say(alice(), &room).await;
    assert_eq!(setup.total(&room), 1);
}

#[tokio::test]
async fn a_change_is_told_once_and_standing_still_is_not() {
    let setup = Setup::new();
    let room = setup.room().await;
    let before = setup.counts(&room).changed_at;
    let first = setup.say(alice(), &room).await;
    let changed_at = setup.counts(&room).changed_at;
    assert!(changed_at > before);
    test_rooms::send(&setup.rooms, alice(), &room, "m.reaction", json!({})).await;
    assert_eq!(setup.counts(&room).changed_at, changed_at, "reactions notify nobody");
    setup.read(&room, ReceiptKind::Private, ReceiptThread::Unthreaded, &first).await;
    assert!(setup.counts(&room).changed_at > changed_at);
}

#[tokio::test]
async fn mentions_are_highlights() {
    let setup = Setup::new();
    let room = setup.room().await;
    setup.send(alice(), &room, json!({ "body": "you", "m.mentions": { "user_ids": [bob()] } })).await;
    setup.send(alice(), &room, json!({ "body": "hey bob!" })).await;
    setup.send(alice(), &room, json!({ "body": "hey bob!", "m.mentions": {} })).await;
    setup.send(alice(), &room, json!({ "body": "all", "m.mentions": { "room": true } })).await;
    assert_eq!(setup.counts(&room).main, Count { highlights: 3, notifications: 4 });
    // Bob may not notify the room, so Alice is not highlighted.
    setup.send(bob(), &room, json!({ "body": "all", "m.mentions": { "room": true } })).await;
    let alices = setup.rooms.get_room(&room).unwrap().unwrap();
    let counts = setup.unread.get_counts(alice(), &alices, setup.store.durable_position()).unwrap();
    assert_eq!(counts.main, Count { highlights: 0, notifications: 1 });
}

#[tokio::test]
async fn threads_are_counted_and_read_apart() {
    let setup = Setup::new();
    let room = setup.room().await;
    let root = setup.say(alice(), &room).await;
    let in_thread = setup.reply(&room, &root).await;
    // An edit of what is in the thread is in the thread, too; so is what answers it.
    let relation = json!({ "rel_type": "m.reference", "event_id": in_thread });
    let last = setup.send(alice(), &room, json!({ "body": "about it", "m.relates_to": relation })).await;
    let counts = setup.counts(&room);
    assert_eq!((counts.main.notifications, counts.threads[&root].notifications), (1, 2));

    setup.read(&room, ReceiptKind::Public, ReceiptThread::Main, &last).await;
    let counts = setup.counts(&room);
    assert_eq!((counts.main.notifications, counts.threads[&root].notifications), (0, 2));
    setup.read(&room, ReceiptKind::Public, ReceiptThread::Root(root.clone()), &in_thread).await;
    assert_eq!(setup.counts(&room).threads[&root].notifications, 1);
    setup.reply(&room, &root).await;
    setup.say(alice(), &room).await;
    let counts = setup.counts(&room);
    assert_eq!((counts.main.notifications, counts.threads[&root].notifications), (1, 2));
    let end = setup.say(alice(), &room).await;
    setup.read(&room, ReceiptKind::Public, ReceiptThread::Unthreaded, &end).await;
    assert_eq!(setup.counts(&room).threads.len(), 0);
    assert_eq!(setup.total(&room), 0);
}

#[tokio::test]
async fn own_messages_mark_what_is_before_them_as_read() {
    let setup = Setup::new();
    let room = setup.room().await;
    let root = setup.say(alice(), &room).await;
    setup.reply(&room, &root).await;
    assert_eq!(setup.total(&room), 2);
    setup.say(bob(), &room).await;
    let counts = setup.counts(&room);
    assert_eq!((counts.main.notifications, counts.threads[&root].notifications), (0, 1), "the thread is apart");
    setup.say(alice(), &room).await;
    assert_eq!(setup.total(&room), 2);
}

#[tokio::test]
async fn redacted_messages_are_not_unread() {
    let setup = Setup::new();
    let room = setup.room().await;
    let (first, second) = (setup.say(alice(), &room).await, setup.say(alice(), &room).await);
    assert_eq!(setup.total(&room), 2);
    for target in [&first, &second] {
        test_rooms::send(&setup.rooms, alice(), &room, "m.room.redaction", json!({ "redacts": target })).await;
    }
    assert_eq!(setup.total(&room), 0);
}

#[tokio::test]
async fn ignored_users_do_not_count() {
    let setup = Setup::new();
    let room = setup.room().await;
    setup.say(alice(), &room).await;
    assert_eq!(setup.total(&room), 1);
    let ignoring = |users: Value| RawValue::from_string(json!({ "ignored_users": users }).to_string()).unwrap();
    let put = async |users: Value| {
        setup.account_data.put(bob(), None, "m.ignored_user_list", &ignoring(users)).await.unwrap();
    };
    put(json!({ "@alice:here.example": {} })).await;
    assert_eq!(setup.total(&room), 0);
    setup.say(alice(), &room).await;
    assert_eq!(setup.total(&room), 0);
    put(json!({})).await;
    assert_eq!(setup.total(&room), 2);
}

#[tokio::test]
async fn counting_begins_with_joining_and_goes_on_through_profile_changes() {
    let setup = Setup::new();
    let room = setup.room().await;
    setup.say(alice(), &room).await;
    let profile = json!({ "membership": "join", "displayname": "Bobby" });
    test_rooms::send_state(&setup.rooms, bob(), &room, "m.room.member", bob().as_str(), profile).await;
    setup.say(alice(), &room).await;
    assert_eq!(setup.total(&room), 2);
    test_rooms::send_state(
        &setup.rooms,
        bob(),
        &room,
        "m.room.member",
        bob().as_str(),
        json!({ "membership": "leave" }),
    )
    .await;
    setup.say(alice(), &room).await;
    assert_eq!(setup.total(&room), 0);
    test_rooms::join(&setup.rooms, bob(), &room).await;
    assert_eq!(setup.total(&room), 0);
    setup.say(alice(), &room).await;
    assert_eq!(setup.total(&room), 1);
}

#[tokio::test]
async fn what_took_long_is_written_down_and_taken_up_again() {
    let setup = Setup::new();
    let room = setup.room().await;
    for _ in 0..WRITE_AFTER {
        setup.say(alice(), &room).await;
    }
    let known = setup.rooms.get_room(&room).unwrap().unwrap();
    let to = setup.store.durable_position();
    let counts = setup.unread.get_counts(bob(), &known, to).unwrap();
    assert_eq!(counts.main.notifications, WRITE_AFTER as u64);
    let written = setup.store.get(&UNREAD, &(bob().to_owned(), known.nid)).unwrap().unwrap();
    assert_eq!(written.main.notified.len(), WRITE_AFTER);

    // What is written is believed, up to where it goes.
    let mut batch = Batch::new();
    let mut shorter = written;
    shorter.main.notified.truncate(3);
    batch.put(&UNREAD, &(bob().to_owned(), known.nid), &shorter);
    setup.store.commit(batch).await.unwrap();
    setup.say(alice(), &room).await;
    let anew = unread(&setup.store, &setup.rooms, &setup.receipts, &setup.account_data);
    let counts = anew.get_counts(bob(), &known, setup.store.durable_position()).unwrap();
    assert_eq!(counts.main.notifications, 4);
}

#[tokio::test]
async fn threads_notify_their_subscribers_once_a_user_has_subscribed_to_any() {
    let setup = Setup::new();
    let room = setup.room().await;
    let (one, two) = (setup.say(alice(), &room).await, setup.say(alice(), &room).await);
    for root in [&one, &two] {
        setup.reply(&room, root).await;
    }
    assert_eq!(setup.counts(&room).threads.len(), 2, "nobody has heard of subscriptions");

    let subscriptions = crate::thread_subscriptions::ThreadSubscriptions::new(setup.rooms.clone());
    subscriptions.subscribe(bob(), &room, &one, None).await.unwrap();
    let last = setup.say(alice(), &room).await;
    setup.read(&room, ReceiptKind::Public, ReceiptThread::Unthreaded, &last).await;
    for root in [&one, &two] {
        setup.reply(&room, root).await;
    }
    let mention = json!({
        "body": "bob!", "m.mentions": { "user_ids": [bob()] }, "m.relates_to": { "rel_type": "m.thread", "event_id": two },
    });
    setup.send(alice(), &room, mention).await;
    let counts = setup.counts(&room);
    assert_eq!((counts.threads[&one].notifications, counts.threads[&one].highlights), (1, 0));
    assert_eq!((counts.threads[&two].notifications, counts.threads[&two].highlights), (1, 1), "only the mention");

    subscriptions.unsubscribe(bob(), &room, &one).await.unwrap();
    setup.reply(&room, &one).await;
    let nid = setup.rooms.get_room(&room).unwrap().unwrap();
    let counts = setup.unread.get_counts(bob(), &nid, setup.store.durable_position()).unwrap();
    assert_eq!(counts.threads[&one].notifications, 1, "what was counted before still is");
}
