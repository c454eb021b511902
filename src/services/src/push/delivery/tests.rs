use chappe_protocol::{clock::ManualClock, pdu::Pdu, room_version};
use chappe_rooms::{create::Preset, send::canonical_content};
use futures_util::{FutureExt, future::BoxFuture};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, device_id, owned_server_name, room_id, server_name,
    user_id,
};
use serde_json::json;
use url::Url;

use super::*;
use crate::{
    account_data::AccountData,
    event_follower::EventFollower,
    mail::Mail,
    push::{
        evaluate::Candidates,
        follower::{PushFollower, PushSources},
        gateway::GatewayError,
        pushers::NewPusher,
        rules::PushRules,
    },
    receipts::{ReceiptKind, Receipts, Thread},
    sync::waiters::Waiters,
    test_rooms,
};

fn alice() -> &'static UserId {
    user_id!("@alice:here.example")
}

fn bob() -> &'static UserId {
    user_id!("@bob:here.example")
}

mod email;

/// Keeps what it is told; may be down, or reject.
#[derive(Default)]
struct FakeGateway {
    told: Mutex<Vec<Value>>,
    is_down: AtomicBool,
    rejected: Mutex<Vec<String>>,
}

impl Gateway for FakeGateway {
    fn notify(&self, url: Url, body: Value) -> BoxFuture<'_, Result<Vec<String>, GatewayError>> {
        assert_eq!(url.as_str(), "https://push.example/_matrix/push/v1/notify");
        if self.is_down.load(Ordering::Relaxed) {
            return async { Err(GatewayError("down".to_owned())) }.boxed();
        }
        self.told.lock().push(body["notification"].clone());
        async { Ok(self.rejected.lock().clone()) }.boxed()
    }
}

struct Setup {
    store: Store,
    rooms: Rooms,
    clock: Arc<ManualClock>,
    receipts: Arc<Receipts>,
    pushers: Arc<Pushers>,
    gateway: Arc<FakeGateway>,
    emails: Arc<Emails>,
    deliveries: Deliveries,
    follower: PushFollower,
    log: EventFollower,
    room: OwnedRoomId,
}

impl Setup {
    /// A room of Alice's that Bob is in.
    async fn new() -> Self {
        Self::with_mail(None).await
    }

    async fn with_mail(mail: Option<Arc<Mail>>) -> Self {
        let store = Store::in_memory();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let rooms = test_rooms::rooms(&store, clock.clone());
        let receipts = Arc::new(Receipts::new(store.clone(), owned_server_name!("here.example"), clock.clone()));
        let account_data = Arc::new(AccountData::new(store.clone()));
        let rules = Arc::new(PushRules::new(store.clone()));
        let candidates = Arc::new(Candidates::new(rooms.clone()));
        let unread = Arc::new(Unread::new(
            rooms.clone(),
            receipts.clone(),
            account_data.clone(),
            rules.clone(),
            candidates.clone(),
            Waiters::follow(&store),
        ));
        let room = test_rooms::create(&rooms, alice(), Preset::PublicChat).await;
        test_rooms::join(&rooms, bob(), &room).await;
        let pushers = Arc::new(Pushers::load(store.clone(), clock.clone()).unwrap());
        let gateway = Arc::new(FakeGateway::default());
        // Nothing is sent by itself: the tests step.
        let stop = CancellationToken::new();
        stop.cancel();
        let url = Url::parse("https://matrix.here.example/").unwrap();
        let emails = Arc::new(Emails::new(store.clone(), clock.clone(), mail, url));
        let deliveries = Deliveries::new(
            rooms.clone(),
            pushers.clone(),
            unread,
            gateway.clone(),
            emails.clone(),
            clock.clone(),
            stop,
        );
        let follower = PushFollower::open(PushSources {
            rooms: rooms.clone(),
            account_data,
            rules,
            candidates,
            pushers: pushers.clone(),
            deliveries: deliveries.clone(),
            clock: clock.clone(),
        })
        .unwrap();
        let log = EventFollower::open("push", &rooms).unwrap();
        Self { log, store, rooms, clock, receipts, pushers, gateway, emails, deliveries, follower, room }
    }

    async fn set_pusher(&self, user_id: &UserId, data: Value, append: bool) -> PusherKey {
        let key = PusherKey { user_id: user_id.to_owned(), app_id: "app".to_owned(), pushkey: "key".to_owned() };
        let mut whole = json!({ "url": "https://push.example/_matrix/push/v1/notify" }).as_object().unwrap().clone();
        whole.extend(data.as_object().unwrap().clone());
        let new = NewPusher {
            kind: "http".to_owned(),
            app_display_name: "App".to_owned(),
            device_display_name: "Phone".to_owned(),
            profile_tag: None,
            lang: "en".to_owned(),
            data: whole,
            append,
        };
        self.pushers.set(key.clone(), device_id!("PHONE"), new).await.unwrap();
        key
    }

    async fn say(&self, user: &UserId, body: &str) -> OwnedEventId {
        test_rooms::say(&self.rooms, user, &self.room, body).await
    }

    /// Queues what the log holds.
    async fn follow(&mut self) {
        while tokio::time::timeout(Duration::from_millis(100), self.log.step(&mut self.follower)).await.is_ok() {}
    }

    /// Queues what the log holds, and takes steps until there is nothing more to do now.
    async fn deliver(&mut self, key: &PusherKey) -> Progress {
        self.follow().await;
        loop {
            let progress = self.deliveries.inner.step(key).await.unwrap();
            if progress != Progress::Step {
                return progress;
            }
        }
    }

    fn told(&self) -> Vec<Value> {
        std::mem::take(&mut *self.gateway.told.lock())
    }

    async fn read(&self, room: &RoomId, event_id: &EventId) {
        self.receipts.set(room, bob(), ReceiptKind::Private, &Thread::Unthreaded, event_id).await.unwrap();
    }
}

#[tokio::test]
async fn gateway_is_told_of_the_event_and_of_how_much_is_unread() {
    let mut setup = Setup::new().await;
    let key = setup.set_pusher(bob(), json!({ "brand": "x" }), false).await;
    test_rooms::send_state(&setup.rooms, alice(), &setup.room, "m.room.name", "", json!({ "name": "Here" })).await;
    let event_id = setup.say(alice(), "hello bob").await;
    setup.deliver(&key).await;
    let told = setup.told();
    assert_eq!(told.len(), 1, "{told:?}");
    let device = json!({
        "app_id": "app",
        "pushkey": "key",
        "pushkey_ts": 1_700_000_000,
        "data": { "brand": "x" },
        "tweaks": { "sound": "default", "highlight": true },
    });
    let expected = json!({
        "event_id": event_id,
        "room_id": setup.room,
        "type": "m.room.message",
        "sender": alice(),
        "room_name": "Here",
        "content": { "msgtype": "m.text", "body": "hello bob" },
        "prio": "high",
        "counts": { "unread": 1 },
        "devices": [device],
    });
    assert_eq!(told[0], expected);
    assert!(setup.store.scan(&PUSH_QUEUE, &(), Direction::Forward).next().is_none());
}

#[tokio::test]
async fn event_id_only_tells_nothing_else() {
    let mut setup = Setup::new().await;
    let key = setup.set_pusher(bob(), json!({ "format": "event_id_only" }), false).await;
    let event_id = setup.say(alice(), "secret").await;
    setup.deliver(&key).await;
    let told = setup.told();
    assert_eq!(told[0]["event_id"], event_id.as_str());
    assert_eq!(told[0]["devices"][0]["data"], json!({ "format": "event_id_only" }));
    for field in ["content", "sender", "type", "sender_display_name", "room_name"] {
        assert!(told[0].get(field).is_none(), "{field}");
    }
}

#[tokio::test]
async fn own_messages_and_what_was_read_meanwhile_are_not_told() {
    let mut setup = Setup::new().await;
    let key = setup.set_pusher(bob(), json!({}), false).await;
    setup.say(bob(), "mine").await;
    setup.deliver(&key).await;
    assert!(setup.told().is_empty());

    setup.say(alice(), "first").await;
    let second = setup.say(alice(), "second").await;
    let room = setup.room.clone();
    setup.read(&room, &second).await;
    setup.deliver(&key).await;
    assert!(setup.told().is_empty());
}

#[tokio::test]
async fn reading_updates_the_badge() {
    let mut setup = Setup::new().await;
    let key = setup.set_pusher(bob(), json!({}), false).await;
    let event_id = setup.say(alice(), "one").await;
    setup.deliver(&key).await;
    assert_eq!(setup.told()[0]["counts"]["unread"], 1);
    let room = setup.room.clone();
    setup.read(&room, &event_id).await;
    assert_eq!(setup.deliver(&key).await, Progress::Idle);
    let told = setup.told();
    assert_eq!((told.len(), &told[0]["counts"], told[0].get("event_id")), (1, &json!({}), None));
    assert_eq!(setup.deliver(&key).await, Progress::Idle);
    assert!(setup.told().is_empty(), "told once");
}

#[tokio::test]
async fn gateway_that_is_down_is_tried_again_with_growing_pauses() {
    let mut setup = Setup::new().await;
    let key = setup.set_pusher(bob(), json!({}), false).await;
    setup.gateway.is_down.store(true, Ordering::Relaxed);
    setup.say(alice(), "one").await;
    let mut pause_before = 0;
    for _ in 0..4 {
        let Progress::RetryAt(at_ms) = setup.deliver(&key).await else { panic!("it is down") };
        let pause = at_ms - setup.clock.now_ms();
        assert!(pause > pause_before, "{pause} after {pause_before}");
        assert_eq!(setup.deliver(&key).await, Progress::RetryAt(at_ms), "not before its time");
        setup.clock.advance(pause);
        pause_before = pause;
    }
    setup.gateway.is_down.store(false, Ordering::Relaxed);
    assert_eq!(setup.deliver(&key).await, Progress::Idle);
    assert_eq!(setup.told().len(), 1);
    assert_eq!(setup.store.get(&PUSHER_STATES, &key.row()).unwrap().unwrap().failures, 0);

    setup.gateway.is_down.store(true, Ordering::Relaxed);
    setup.say(alice(), "two").await;
    setup.deliver(&key).await;
    setup.clock.advance(AGE_MAX_MS + 1);
    setup.gateway.is_down.store(false, Ordering::Relaxed);
    setup.deliver(&key).await;
    assert!(setup.told().iter().all(|told| told.get("event_id").is_none()), "too old to be news");
}

#[tokio::test]
async fn rejected_pushkey_loses_its_pusher() {
    let mut setup = Setup::new().await;
    let key = setup.set_pusher(bob(), json!({}), false).await;
    *setup.gateway.rejected.lock() = vec!["other".to_owned()];
    setup.say(alice(), "one").await;
    setup.deliver(&key).await;
    assert!(setup.pushers.get_pusher(&key).unwrap().is_some());
    *setup.gateway.rejected.lock() = vec!["key".to_owned()];
    setup.say(alice(), "two").await;
    setup.deliver(&key).await;
    assert!(setup.pushers.get_pusher(&key).unwrap().is_none());
    setup.told();
    setup.say(alice(), "three").await;
    setup.deliver(&key).await;
    assert!(setup.told().is_empty());
}

#[tokio::test]
async fn pushkey_serves_one_user_unless_it_is_appended() {
    let setup = Setup::new().await;
    let bobs = setup.set_pusher(bob(), json!({}), false).await;
    let alices = setup.set_pusher(alice(), json!({}), true).await;
    assert!(setup.pushers.get_pusher(&bobs).unwrap().is_some());
    setup.set_pusher(alice(), json!({}), false).await;
    assert!(setup.pushers.get_pusher(&bobs).unwrap().is_none());
    assert!(setup.pushers.get_pusher(&alices).unwrap().is_some());
}

#[tokio::test]
async fn whoever_leaves_is_told_nothing_more() {
    let mut setup = Setup::new().await;
    let key = setup.set_pusher(bob(), json!({}), false).await;
    setup.say(alice(), "one").await;
    setup.deliver(&key).await;
    setup.told();
    let leave = json!({ "membership": "leave" });
    test_rooms::send_state(&setup.rooms, bob(), &setup.room, "m.room.member", bob().as_str(), leave).await;
    setup.say(alice(), "two").await;
    setup.deliver(&key).await;
    assert!(setup.told().iter().all(|told| told.get("event_id").is_none()));
    let invite = json!({ "membership": "invite" });
    test_rooms::send_state(&setup.rooms, alice(), &setup.room, "m.room.member", bob().as_str(), invite).await;
    setup.deliver(&key).await;
    let told = setup.told();
    assert_eq!((&told[0]["type"], &told[0]["user_is_target"]), (&json!("m.room.member"), &json!(true)));
}

#[tokio::test]
async fn invite_to_a_room_of_another_server_is_told() {
    let mut setup = Setup::new().await;
    let key = setup.set_pusher(bob(), json!({}), false).await;
    let rules = room_version::rules(&RoomVersionId::V11).unwrap();
    let room = room_id!("!far:there.example");
    let mallory = "@mallory:there.example";
    let invite = json!({
        "type": "m.room.member", "state_key": bob(), "sender": mallory, "room_id": room, "depth": 7,
        "content": { "membership": "invite" }, "origin_server_ts": 1_700_000_000_000_u64,
        "auth_events": [], "prev_events": [],
    });
    let mut event = canonical_content(&invite.to_string()).unwrap();
    test_rooms::peer().hash_and_sign_event(&mut event, &rules).unwrap();
    let pdu = Pdu::from_object(event.clone(), &rules).unwrap();
    let event = serde_json::value::to_raw_value(&event).unwrap();
    let name = json!({ "type": "m.room.name", "state_key": "", "sender": mallory, "content": { "name": "Far" } });
    setup
        .rooms
        .receive_invite(server_name!("there.example"), room, &pdu.event_id, &RoomVersionId::V11, &event, vec![name])
        .await
        .unwrap();
    setup.deliver(&key).await;
    let told = setup.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["event_id"], &told[0]["room_name"]), (&json!(pdu.event_id), &json!("Far")));
    assert_eq!(told[0]["user_is_target"], true);
    setup.deliver(&key).await;
    assert!(setup.told().is_empty(), "told once");
}

#[tokio::test]
async fn what_waits_is_sent_after_a_restart() {
    let mut setup = Setup::new().await;
    let key = setup.set_pusher(bob(), json!({}), false).await;
    setup.say(alice(), "one").await;
    setup.follow().await;
    assert_eq!(setup.pushers.scan_waiting().unwrap(), std::slice::from_ref(&key));
    let Inner { rooms, unread, gateway, emails, clock, .. } = &*setup.deliveries.inner;
    let pushers = Arc::new(Pushers::load(setup.store.clone(), clock.clone()).unwrap());
    let stop = CancellationToken::new();
    let again = Deliveries::new(
        rooms.clone(),
        pushers,
        unread.clone(),
        gateway.clone(),
        emails.clone(),
        clock.clone(),
        stop.clone(),
    );
    again.resume().unwrap();
    while setup.gateway.told.lock().is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(setup.told()[0]["content"]["body"], "one");
    stop.cancel();
}
