//! Whole answers, read from rooms in memory.

use std::{sync::Arc, time::Duration};

use chappe_protocol::clock::ManualClock;
use chappe_rooms::{Rooms, create::Preset};
use chappe_store::Store;
use ruma::{OwnedRoomId, RoomId, UserId, device_id, owned_server_name, user_id};
use serde_json::{Value, json, value::RawValue};

use super::{SlidingSync, SlidingSyncError};
use crate::{
    account_data::AccountData,
    ephemeral_tests::SentEdus,
    filters::Filters,
    keys::{DeviceLists, Keys, testing::FakeServers},
    presence::Presence,
    receipts::{ReceiptKind, Receipts, Thread},
    sync::{SyncService, SyncSources, devices::PollingDevices, joined_rooms::JoinedRooms, waiters::Waiters},
    test_rooms,
    thread_subscriptions::ThreadSubscriptions,
    to_device::ToDevice,
    typing::Typing,
};

fn alice() -> &'static UserId {
    user_id!("@alice:here.example")
}

fn bob() -> &'static UserId {
    user_id!("@bob:here.example")
}

struct Server {
    rooms: Rooms,
    account_data: Arc<AccountData>,
    receipts: Arc<Receipts>,
    typing: Arc<Typing>,
    sources: SyncSources,
    clock: Arc<ManualClock>,
    sync: Arc<SlidingSync>,
}

impl Server {
    fn new() -> Self {
        let store = Store::in_memory();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let rooms = test_rooms::rooms(&store, clock.clone());
        let name = owned_server_name!("here.example");
        let edus = Arc::new(SentEdus::default());
        let keys = Keys::new(store.clone(), name.clone(), Arc::new(FakeServers::default()));
        let account_data = Arc::new(AccountData::new(store.clone()));
        let receipts = Arc::new(Receipts::new(store.clone(), name.clone(), clock.clone()));
        let typing = Arc::new(Typing::new(store.clone(), name.clone(), clock.clone(), edus.clone()));
        let waiters = Waiters::follow(&store);
        let to_device = Arc::new(ToDevice::new(store.clone(), name.clone(), clock.clone(), keys));
        let sources = SyncSources {
            rooms: rooms.clone(),
            account_data: account_data.clone(),
            receipts: receipts.clone(),
            typing: typing.clone(),
            presence: Arc::new(Presence::new(store.clone(), name.clone(), clock.clone(), edus, false)),
            device_lists: DeviceLists::new(store.clone()),
            filters: Arc::new(Filters::new(store.clone())),
            unread: test_rooms::unread(&rooms, &receipts, &account_data, &waiters),
            joined_rooms: JoinedRooms::new(rooms.clone(), waiters.clone()),
            devices: PollingDevices::new(rooms.store().clone(), to_device, waiters.clone()),
            waiters,
        };
        let _wakes_for_typing = SyncService::new(sources.clone());
        let sync = Self::service(&sources, &rooms, &clock);
        Self { rooms, account_data, receipts, typing, sources, clock, sync }
    }

    fn service(sources: &SyncSources, rooms: &Rooms, clock: &Arc<ManualClock>) -> Arc<SlidingSync> {
        let subscriptions = ThreadSubscriptions::new(rooms.clone());
        Arc::new(SlidingSync::new(sources.clone(), subscriptions, clock.clone()))
    }

    /// As after a restart: nothing is in memory.
    fn restart(&mut self) {
        self.sync = Self::service(&self.sources, &self.rooms, &self.clock);
    }

    async fn room(&self) -> OwnedRoomId {
        test_rooms::create(&self.rooms, alice(), Preset::PublicChat).await
    }

    async fn say(&self, room: &RoomId, body: &str) {
        test_rooms::say(&self.rooms, alice(), room, body).await;
    }

    async fn try_ask(
        &self,
        user: &UserId,
        after: Option<&Value>,
        mut request: Value,
    ) -> Result<Value, SlidingSyncError> {
        if let Some(after) = after {
            request["pos"] = after["pos"].clone();
        }
        let request = serde_json::from_value(request).unwrap();
        let answer = self.sync.sync(user, device_id!("PHONE"), request).await?;
        Ok(serde_json::to_value(answer).unwrap())
    }

    async fn ask(&self, user: &UserId, after: Option<&Value>, request: Value) -> Value {
        self.try_ask(user, after, request).await.unwrap()
    }
}

fn list(last: u32, limit: u32) -> Value {
    json!({ "lists": { "l": { "ranges": [[0, last]], "timeline_limit": limit, "required_state": [] } } })
}

fn with_state(required_state: Value) -> Value {
    json!({ "lists": { "l": { "ranges": [[0, 9]], "timeline_limit": 1, "required_state": required_state } } })
}

fn with_extension(name: &str) -> Value {
    let mut request = list(9, 1);
    request["extensions"] = json!({ name: { "enabled": true } });
    request
}

fn bodies(room: &Value) -> Vec<&str> {
    room["timeline"].as_array().into_iter().flatten().filter_map(|event| event["content"]["body"].as_str()).collect()
}

fn state(room: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = room["required_state"].as_array().into_iter().flatten();
    let mut keys: Vec<_> = events.map(|event| (text(&event["type"]), text(&event["state_key"]))).collect();
    keys.sort();
    keys
}

fn key(event_type: &str, state_key: &str) -> (String, String) {
    (event_type.to_owned(), state_key.to_owned())
}

#[tokio::test]
async fn room_that_falls_out_of_the_window_is_told_from_where_it_was_when_it_comes_back() {
    let mut server = Server::new();
    let (one, two) = (server.room().await, server.room().await);
    server.say(&one, "1").await;
    server.say(&two, "2").await;
    let first = server.ask(alice(), None, list(0, 1)).await;
    assert_eq!(first["lists"]["l"]["count"], 2);
    assert_eq!(bodies(&first["rooms"][two.as_str()]), ["2"]);
    assert!(first["rooms"].get(one.as_str()).is_none(), "{first}");

    // The other room takes its place in the window; then it goes on while nobody looks.
    server.say(&one, "3").await;
    let second = server.ask(alice(), Some(&first), list(0, 1)).await;
    assert_eq!(
        (bodies(&second["rooms"][one.as_str()]), &second["rooms"][one.as_str()]["initial"]),
        (vec!["3"], &json!(true))
    );
    server.say(&two, "4").await;
    server.say(&one, "5").await;
    let third = server.ask(alice(), Some(&second), list(0, 1)).await;
    assert_eq!(bodies(&third["rooms"][one.as_str()]), ["5"]);
    assert!(third["rooms"].get(two.as_str()).is_none());

    server.restart();
    let fourth = server.ask(alice(), Some(&third), list(1, 1)).await;
    let back = &fourth["rooms"][two.as_str()];
    assert_eq!((bodies(back), back.get("initial")), (vec!["4"], None), "{fourth}");
    assert!(fourth["rooms"].get(one.as_str()).is_none(), "it was told: {fourth}");
    let fifth = server.ask(alice(), Some(&fourth), list(1, 1)).await;
    assert_eq!(fifth["rooms"], json!({}));
}

#[tokio::test]
async fn greater_timeline_limit_tells_more_of_the_past() {
    let server = Server::new();
    let room = server.room().await;
    for body in ["1", "2", "3"] {
        server.say(&room, body).await;
    }
    let first = server.ask(alice(), None, list(9, 1)).await;
    assert_eq!(bodies(&first["rooms"][room.as_str()]), ["3"]);
    let second = server.ask(alice(), Some(&first), list(9, 3)).await;
    let part = &second["rooms"][room.as_str()];
    assert_eq!((bodies(part), &part["unstable_expanded_timeline"]), (vec!["1", "2", "3"], &json!(true)));
    assert_eq!(part["num_live"], 0);
    let third = server.ask(alice(), Some(&second), list(9, 3)).await;
    assert_eq!(third["rooms"], json!({}));
    let fourth = server.ask(alice(), Some(&third), list(9, 1)).await;
    let fifth = server.ask(alice(), Some(&fourth), list(9, 3)).await;
    assert_eq!(fifth["rooms"], json!({}), "without a gap it still has what it had");
}

#[tokio::test]
async fn required_state_is_told_when_it_is_asked_for_first_and_when_it_changes() {
    let server = Server::new();
    let room = server.room().await;
    test_rooms::join(&server.rooms, bob(), &room).await;
    test_rooms::send_state(&server.rooms, alice(), &room, "m.room.topic", "", json!({ "topic": "a" })).await;
    server.say(&room, "hello").await;
    let request = with_state(json!([["m.room.create", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]]));
    let first = server.ask(bob(), None, request.clone()).await;
    let member = |user: &UserId| key("m.room.member", user.as_str());
    assert_eq!(state(&first["rooms"][room.as_str()]), [key("m.room.create", ""), member(alice()), member(bob())]);

    server.say(&room, "again").await;
    let second = server.ask(bob(), Some(&first), request).await;
    assert_eq!(state(&second["rooms"][room.as_str()]), [], "the speaker is known");

    let more = with_state(json!([["m.room.topic", ""], ["m.room.create", ""]]));
    let third = server.ask(bob(), Some(&second), more.clone()).await;
    assert_eq!(state(&third["rooms"][room.as_str()]), [key("m.room.topic", "")]);
    test_rooms::send_state(&server.rooms, alice(), &room, "m.room.topic", "", json!({ "topic": "b" })).await;
    let fourth = server.ask(bob(), Some(&third), more.clone()).await;
    assert_eq!(state(&fourth["rooms"][room.as_str()]), [key("m.room.topic", "")]);
    let fifth = server.ask(bob(), Some(&fourth), more).await;
    assert_eq!(fifth["rooms"], json!({}));
}

#[tokio::test]
async fn nameless_room_has_heroes_and_counts() {
    let server = Server::new();
    let room = server.room().await;
    test_rooms::join(&server.rooms, bob(), &room).await;
    let first = server.ask(alice(), None, list(9, 1)).await;
    let part = &first["rooms"][room.as_str()];
    assert_eq!((&part["joined_count"], &part["heroes"][0]["user_id"]), (&json!(2), &json!(bob())), "{part}");
    test_rooms::send_state(&server.rooms, alice(), &room, "m.room.name", "", json!({ "name": "Den" })).await;
    let second = server.ask(alice(), Some(&first), list(9, 1)).await;
    let part = &second["rooms"][room.as_str()];
    assert_eq!((&part["name"], part.get("heroes")), (&json!("Den"), None));
}

#[tokio::test]
async fn invite_is_told_and_joining_begins_the_room_anew() {
    let server = Server::new();
    let room = test_rooms::create(&server.rooms, alice(), Preset::PrivateChat).await;
    server.say(&room, "before").await;
    server.rooms.invite(alice(), &room, bob(), None).await.unwrap();
    let mut invites = list(9, 5);
    invites["lists"]["l"]["filters"] = json!({ "is_invite": true });
    let first = server.ask(bob(), None, invites.clone()).await;
    assert!(first["rooms"][room.as_str()]["invite_state"].as_array().unwrap().len() > 1, "{first}");
    test_rooms::join(&server.rooms, bob(), &room).await;
    let none = server.ask(bob(), Some(&first), invites).await;
    assert_eq!(none["lists"]["l"]["count"], 0);
    let second = server.ask(bob(), Some(&none), list(9, 50)).await;
    let part = &second["rooms"][room.as_str()];
    assert_eq!((&part["initial"], bodies(part)), (&json!(true), vec!["before"]), "{second}");
}

#[tokio::test]
async fn who_is_kicked_is_told_so_and_nothing_after() {
    let server = Server::new();
    let room = server.room().await;
    test_rooms::join(&server.rooms, bob(), &room).await;
    let first = server.ask(bob(), None, list(9, 5)).await;
    server.say(&room, "last").await;
    server.rooms.kick(alice(), &room, bob(), None).await.unwrap();
    server.say(&room, "secret").await;
    let second = server.ask(bob(), Some(&first), list(9, 5)).await;
    let part = &second["rooms"][room.as_str()];
    assert_eq!(bodies(part), ["last"], "{second}");
    assert!(state(part).contains(&key("m.room.member", bob().as_str())));
    assert_eq!(second["lists"]["l"]["count"], 0);
    let third = server.ask(bob(), Some(&second), list(9, 5)).await;
    assert_eq!(third["rooms"], json!({}));
    test_rooms::join(&server.rooms, bob(), &room).await;
    let fourth = server.ask(bob(), Some(&third), list(9, 5)).await;
    assert_eq!(fourth["rooms"][room.as_str()]["initial"], true);
}

#[tokio::test]
async fn lists_are_filtered() {
    let server = Server::new();
    let (plain, secret) = (server.room().await, server.room().await);
    let algorithm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    test_rooms::send_state(&server.rooms, alice(), &secret, "m.room.encryption", "", algorithm).await;
    test_rooms::send_state(&server.rooms, alice(), &plain, "m.room.name", "", json!({ "name": "Garden" })).await;
    let raw = |value: Value| RawValue::from_string(value.to_string()).unwrap();
    let direct = raw(json!({ "@bob:here.example": [secret] }));
    server.account_data.put(alice(), None, "m.direct", &direct).await.unwrap();
    let tags = raw(json!({ "tags": { "m.favourite": {} } }));
    server.account_data.put(alice(), Some(&plain), "m.tag", &tags).await.unwrap();
    for (filters, expected) in [
        (json!({}), vec![&plain, &secret]),
        (json!({ "is_encrypted": true }), vec![&secret]),
        (json!({ "is_dm": false }), vec![&plain]),
        (json!({ "room_name_like": "gard" }), vec![&plain]),
        (json!({ "tags": ["m.favourite"] }), vec![&plain]),
        (json!({ "not_tags": ["m.favourite"] }), vec![&secret]),
        (json!({ "room_types": [null] }), vec![&plain, &secret]),
        (json!({ "not_room_types": [null] }), vec![]),
        (json!({ "room_types": ["m.space"] }), vec![]),
    ] {
        let mut request = list(9, 1);
        request["lists"]["l"]["filters"] = filters.clone();
        let answer = server.ask(alice(), None, request).await;
        let mut rooms: Vec<_> = answer["rooms"].as_object().unwrap().keys().cloned().collect();
        let mut expected: Vec<_> = expected.into_iter().map(ToString::to_string).collect();
        rooms.sort();
        expected.sort();
        assert_eq!(rooms, expected, "{filters}");
    }
}

#[tokio::test]
async fn subscription_tells_of_a_room_outside_all_windows() {
    let server = Server::new();
    let room = server.room().await;
    server.say(&room, "hello").await;
    let request = json!({ "room_subscriptions": { room.as_str(): { "timeline_limit": 1, "required_state": [] } } });
    let answer = server.ask(alice(), None, request.clone()).await;
    assert_eq!(bodies(&answer["rooms"][room.as_str()]), ["hello"]);
    let stranger = server.ask(bob(), None, request).await;
    assert_eq!(stranger["rooms"], json!({}), "a room one has nothing to do with");
}

#[tokio::test]
async fn extensions_tell_of_the_rooms_in_the_windows() {
    let server = Server::new();
    let room = server.room().await;
    let event = test_rooms::say(&server.rooms, alice(), &room, "hello").await;
    let raw = RawValue::from_string(json!({ "a": 1 }).to_string()).unwrap();
    server.account_data.put(alice(), Some(&room), "org.example.x", &raw).await.unwrap();
    server.account_data.put(alice(), None, "org.example.y", &raw).await.unwrap();
    let first = server.ask(alice(), None, with_extension("account_data")).await;
    let data = &first["extensions"]["account_data"];
    assert_eq!(data["global"][0]["type"], "org.example.y");
    assert_eq!(data["rooms"][room.as_str()][0]["type"], "org.example.x");
    let second = server.ask(alice(), Some(&first), with_extension("account_data")).await;
    assert_eq!(second["extensions"]["account_data"], json!({ "global": [], "rooms": {} }));

    server.receipts.set(&room, alice(), ReceiptKind::Private, &Thread::Unthreaded, &event).await.unwrap();
    let third = server.ask(alice(), Some(&second), with_extension("receipts")).await;
    let receipt = &third["extensions"]["receipts"]["rooms"][room.as_str()];
    assert!(receipt["content"][event.as_str()]["m.read.private"].is_object(), "{third}");
    server.typing.start(&room, alice(), Duration::from_secs(10)).unwrap();
    let fourth = server.ask(alice(), Some(&third), with_extension("typing")).await;
    assert_eq!(fourth["extensions"]["typing"]["rooms"][room.as_str()]["content"]["user_ids"], json!([alice()]));
    let fifth = server.ask(alice(), Some(&fourth), with_extension("e2ee")).await;
    assert!(fifth["extensions"]["e2ee"]["device_one_time_keys_count"].is_object());
    let sixth = server.ask(alice(), Some(&fifth), with_extension("to_device")).await;
    assert!(sixth["extensions"]["to_device"]["next_batch"].is_string());
}

#[tokio::test]
async fn poll_is_woken_and_unknown_positions_are_told_so() {
    let server = Server::new();
    let room = server.room().await;
    let first = server.ask(alice(), None, list(9, 1)).await;
    let mut request = list(9, 1);
    request["timeout"] = json!(60_000);
    let poll = server.ask(alice(), Some(&first), request);
    let (answer, ()) = tokio::join!(poll, async {
        tokio::task::yield_now().await;
        server.say(&room, "news").await;
    });
    assert_eq!(bodies(&answer["rooms"][room.as_str()]), ["news"]);
    assert_eq!(answer["rooms"][room.as_str()]["num_live"], 1);
    for pos in ["", "x", "1-s1", "99999-s1_0_0_1"] {
        let mut request = list(9, 1);
        request["pos"] = json!(pos);
        assert!(matches!(server.try_ask(alice(), None, request).await, Err(SlidingSyncError::UnknownPos)), "{pos}");
    }
    let mut other = list(9, 1);
    other["conn_id"] = json!("other");
    assert!(matches!(server.try_ask(alice(), Some(&first), other).await, Err(SlidingSyncError::UnknownPos)));
}

#[tokio::test]
async fn connection_for_encryption_is_answered_when_something_happens_in_a_room_for_two() {
    let server = Server::new();
    let private = server.room().await;
    test_rooms::join(&server.rooms, bob(), &private).await;
    let crowded = server.room().await;
    for user in [bob(), user_id!("@carol:here.example")] {
        test_rooms::join(&server.rooms, user, &crowded).await;
    }
    let encryption = |timeout: u64| json!({ "conn_id": "encryption", "timeout": timeout, "extensions": { "e2ee": { "enabled": true }, "to_device": { "enabled": true } } });
    let first = server.ask(bob(), None, encryption(0)).await;
    server.say(&crowded, "to many").await;
    let waiting = tokio::time::timeout(Duration::from_millis(900), server.ask(bob(), Some(&first), encryption(60_000)));
    assert!(waiting.await.is_err(), "a room of three has nothing to do with verification");
    server.say(&private, "to one").await;
    let answer = server.ask(bob(), Some(&first), encryption(60_000));
    let answer = tokio::time::timeout(Duration::from_secs(20), answer).await.unwrap();
    assert_eq!(answer["rooms"], json!({}));
    let waiting =
        tokio::time::timeout(Duration::from_millis(900), server.ask(bob(), Some(&answer), encryption(60_000)));
    assert!(waiting.await.is_err(), "nothing has happened since");
}
