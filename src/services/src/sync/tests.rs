//! Whole answers, read from rooms in memory.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chappe_protocol::{clock::ManualClock, room_version, sign::ServerSigner};
use chappe_rooms::{
    EventDraft, Rooms, create::Preset, membership::MemberProfile, send::canonical_content, timeline::Token,
};
use chappe_store::{
    Batch, Direction, Store,
    tables::accounts::{DEVICES, DeviceRecord},
};
use ruma::{
    OwnedRoomId, RoomId, RoomVersionId, UserId, device_id, events::StateEventType, owned_server_name,
    presence::PresenceState, server_name, to_device::DeviceIdOrAllDevices, user_id,
};
use serde_json::{Value, json, value::RawValue};

use super::{FilterChoice, StateStyle, SyncError, SyncRequest, SyncService, SyncSources, waiters::Waiters};
use crate::{
    account_data::AccountData,
    ephemeral_tests::SentEdus,
    filters::Filters,
    keys::{
        DeviceLists, Keys,
        testing::{FakeServers, raw},
    },
    presence::Presence,
    receipts::{ReceiptKind, Receipts, Thread},
    test_rooms,
    to_device::ToDevice,
    typing::Typing,
};

fn alice() -> &'static UserId {
    user_id!("@alice:here.example")
}

fn bob() -> &'static UserId {
    user_id!("@bob:here.example")
}

fn carol() -> &'static UserId {
    user_id!("@carol:here.example")
}

struct Server {
    store: Store,
    rooms: Rooms,
    account_data: Arc<AccountData>,
    receipts: Arc<Receipts>,
    typing: Arc<Typing>,
    presence: Arc<Presence>,
    to_device: Arc<ToDevice>,
    waiters: Waiters,
    sync: Arc<SyncService>,
    there: ServerSigner,
}

impl Server {
    fn new() -> Self {
        let store = Store::in_memory();
        let name = owned_server_name!("here.example");
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let rooms = test_rooms::rooms(&store, clock.clone());
        let there = test_rooms::peer();
        let edus = Arc::new(SentEdus::default());
        let keys = Keys::new(store.clone(), name.clone(), Arc::new(FakeServers::default()));
        let account_data = Arc::new(AccountData::new(store.clone()));
        let receipts = Arc::new(Receipts::new(store.clone(), name.clone(), clock.clone()));
        let typing = Arc::new(Typing::new(store.clone(), name.clone(), clock.clone(), edus.clone()));
        let presence = Arc::new(Presence::new(store.clone(), name.clone(), clock.clone(), edus, true));
        let to_device = Arc::new(ToDevice::new(store.clone(), name, clock, keys));
        let waiters = Waiters::follow(&store);
        let unread = test_rooms::unread(&rooms, &receipts, &account_data, &waiters);
        let sync = Arc::new(SyncService::new(SyncSources {
            rooms: rooms.clone(),
            account_data: account_data.clone(),
            receipts: receipts.clone(),
            typing: typing.clone(),
            presence: presence.clone(),
            to_device: to_device.clone(),
            device_lists: DeviceLists::new(store.clone()),
            filters: Arc::new(Filters::new(store.clone())),
            unread,
            waiters: waiters.clone(),
        }));
        Self { store, rooms, account_data, receipts, typing, presence, to_device, waiters, sync, there }
    }

    async fn create(&self, preset: Preset) -> OwnedRoomId {
        test_rooms::create(&self.rooms, alice(), preset).await
    }

    /// A public room of Alice's with these users joined.
    async fn room(&self, others: &[&UserId]) -> OwnedRoomId {
        let room = self.create(Preset::PublicChat).await;
        for user in others {
            self.join(user, &room).await;
        }
        room
    }

    async fn join(&self, user: &UserId, room: &RoomId) {
        test_rooms::join(&self.rooms, user, room).await;
    }

    async fn say(&self, user: &UserId, room: &RoomId, body: &str) {
        test_rooms::say(&self.rooms, user, room, body).await;
    }

    async fn name(&self, room: &RoomId, name: &str) {
        test_rooms::send_state(&self.rooms, alice(), room, "m.room.name", "", json!({ "name": name })).await;
    }

    async fn device(&self, user: &UserId) {
        let mut batch = Batch::new();
        batch.put(&DEVICES, &(user.to_owned(), "PHONE".into()), &DeviceRecord { display_name: None, created_at_ms: 0 });
        self.store.commit(batch).await.unwrap();
    }

    async fn ask(&self, request: SyncRequest) -> Value {
        serde_json::to_value(self.sync.sync(request).await.unwrap()).unwrap()
    }

    async fn initial(&self, user: &UserId) -> Value {
        self.ask(request(user, None)).await
    }

    async fn after(&self, user: &UserId, answer: &Value) -> Value {
        self.ask(request(user, Some(answer))).await
    }
}

/// A sync that does not wait and leaves presence alone, from the beginning or from where an answer ended.
fn request(user: &UserId, after: Option<&Value>) -> SyncRequest {
    SyncRequest {
        user_id: user.to_owned(),
        device_id: "PHONE".into(),
        since: after.map(|answer| answer["next_batch"].as_str().unwrap().to_owned()),
        filter: FilterChoice::None,
        full_state: false,
        state_style: StateStyle::Before,
        timeout: Duration::ZERO,
        set_presence: PresenceState::Offline,
    }
}

fn filtered(user: &UserId, after: Option<&Value>, filter: Value) -> SyncRequest {
    SyncRequest { filter: FilterChoice::Inline(filter.to_string()), ..request(user, after) }
}

fn limited_to(user: &UserId, after: Option<&Value>, limit: u32) -> SyncRequest {
    filtered(user, after, json!({ "room": { "timeline": { "limit": limit } } }))
}

/// What is told of the events at a place: the body of a message, or the type and state key.
fn told(events: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let events = events.as_array().cloned().unwrap_or_default();
    let tell = |event: &Value| match event.get("state_key") {
        Some(state_key) if event["type"] == "m.room.member" => {
            format!("{} {}", text(&event["content"]["membership"]), text(state_key))
        }
        Some(_) => text(&event["type"]),
        None => text(&event["content"]["body"]),
    };
    events.iter().map(tell).collect()
}

fn timeline(answer: &Value, section: &str, room: &RoomId) -> Vec<String> {
    told(&answer["rooms"][section][room.as_str()]["timeline"]["events"])
}

fn state(answer: &Value, section: &str, room: &RoomId) -> Vec<String> {
    let mut state = told(&answer["rooms"][section][room.as_str()]["state"]["events"]);
    state.sort();
    state
}

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
async fn receipts_and_typing_are_told_once_and_private_ones_to_their_user_only() {
    let server = Server::new();
    let room = server.room(&[bob(), carol()]).await;
    server.say(alice(), &room, "1").await;
    let (bob_at, carol_at) = (server.initial(bob()).await, server.initial(carol()).await);
    let nid = server.rooms.get_room_nid(&room).unwrap().unwrap();
    let last = server.rooms.get_last_position(nid).unwrap();
    let (events, _) = server.rooms.get_timeline(nid, chappe_store::Position::ZERO, last, 1).unwrap();
    let event_id = &events[0].1.pdu.event_id;
    server.receipts.set(&room, bob(), ReceiptKind::Private, &Thread::Unthreaded, event_id).await.unwrap();
    let ephemeral = |answer: &Value| answer["rooms"]["join"][room.as_str()]["ephemeral"]["events"].clone();
    let bob_next = server.after(bob(), &bob_at).await;
    assert!(
        ephemeral(&bob_next)[0]["content"][event_id.as_str()]["m.read.private"].get(bob().as_str()).is_some(),
        "{bob_next}"
    );
    assert!(server.after(carol(), &carol_at).await.get("rooms").is_none());
    assert!(server.after(bob(), &bob_next).await.get("rooms").is_none());

    server.receipts.set(&room, bob(), ReceiptKind::Public, &Thread::Unthreaded, event_id).await.unwrap();
    server.typing.start(&room, alice(), Duration::from_secs(30)).unwrap();
    let carol_next = server.after(carol(), &carol_at).await;
    let told = ephemeral(&carol_next);
    assert_eq!(told[0], json!({ "type": "m.typing", "content": { "user_ids": [alice()] } }));
    assert_eq!(told[1]["type"], "m.receipt");
    server.typing.stop(&room, alice()).unwrap();
    let quiet = server.after(carol(), &carol_next).await;
    assert_eq!(ephemeral(&quiet), json!([{ "type": "m.typing", "content": { "user_ids": [] } }]));
    assert!(server.after(carol(), &quiet).await.get("rooms").is_none());
}

#[tokio::test]
async fn room_account_data_comes_with_its_room() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    let tag = RawValue::from_string(r#"{"tags":{"m.favourite":{}}}"#.to_owned()).unwrap();
    server.account_data.put(bob(), Some(&room), "m.tag", &tag).await.unwrap();
    let expected = json!([{ "type": "m.tag", "content": { "tags": { "m.favourite": {} } } }]);
    let (next, anew) = (server.after(bob(), &first).await, server.initial(bob()).await);
    for answer in [&next, &anew] {
        assert_eq!(answer["rooms"]["join"][room.as_str()]["account_data"]["events"], expected);
    }
    assert!(next.get("account_data").is_none());
    assert_eq!(anew["account_data"]["events"].as_array().unwrap().len(), 1, "push rules alone are global");
}

async fn wakes(server: &Server, user: &'static UserId, first: &Value, act: impl Future<Output = ()>) -> Value {
    let sync = server.sync.clone();
    let request = SyncRequest { timeout: Duration::from_secs(60), ..request(user, Some(first)) };
    let poll = tokio::spawn(async move { serde_json::to_value(sync.sync(request).await.unwrap()).unwrap() });
    while server.waiters.waiting() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!poll.is_finished());
    act.await;
    tokio::time::timeout(Duration::from_secs(20), poll).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_long_poll_wakes_for_what_it_waits_for() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let foreign = server.room(&[]).await;
    let first = server.initial(bob()).await;
    let said = wakes(&server, bob(), &first, async {
        server.say(alice(), &foreign, "not for bob").await;
        server.say(alice(), &room, "hello").await;
    })
    .await;
    assert_eq!(timeline(&said, "join", &room), ["hello"]);
    let typed =
        wakes(&server, bob(), &said, async { server.typing.start(&room, alice(), Duration::from_secs(9)).unwrap() })
            .await;
    assert_eq!(typed["rooms"]["join"][room.as_str()]["ephemeral"]["events"][0]["type"], "m.typing");
    let present = wakes(&server, bob(), &typed, async {
        server.presence.set(alice(), PresenceState::Online, None).await.unwrap();
    })
    .await;
    assert_eq!(present["presence"]["events"][0]["sender"], json!(alice()));
    let joined = wakes(&server, bob(), &present, async { server.join(bob(), &foreign).await }).await;
    assert!(timeline(&joined, "join", &foreign).contains(&"not for bob".to_owned()));
    assert_eq!(server.waiters.waiting(), 0);
}

#[tokio::test]
async fn a_closing_server_ends_its_polls() {
    let server = Server::new();
    server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    let answer = wakes(&server, bob(), &first, async { server.waiters.close() }).await;
    assert!(answer.get("rooms").is_none());
}

#[tokio::test]
async fn messages_to_a_device_are_given_until_acknowledged_and_never_skipped() {
    let server = Server::new();
    server.device(bob()).await;
    let first = server.initial(bob()).await;
    for number in 0..150 {
        let content = raw(&json!({ "n": number }));
        let device = DeviceIdOrAllDevices::DeviceId("PHONE".into());
        let messages = BTreeMap::from([(bob().to_owned(), BTreeMap::from([(device, content)]))]);
        let transaction = ruma::OwnedTransactionId::from(number.to_string());
        server.to_device.send(alice(), device_id!("X"), "org.example", &transaction, &messages).await.unwrap();
    }
    let numbers = |answer: &Value| -> Vec<u64> {
        let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
        events.iter().map(|event| event["content"]["n"].as_u64().unwrap()).collect()
    };
    let second = server.after(bob(), &first).await;
    assert_eq!(numbers(&second), (0..100).collect::<Vec<_>>());
    // Not acknowledged: given again.
    assert_eq!(numbers(&server.after(bob(), &first).await), (0..100).collect::<Vec<_>>());
    let third = server.after(bob(), &second).await;
    assert_eq!(numbers(&third), (100..150).collect::<Vec<_>>());
    assert_eq!(numbers(&server.after(bob(), &third).await), Vec::<u64>::new());
    assert_eq!(numbers(&server.initial(bob()).await), Vec::<u64>::new());
}

#[tokio::test]
async fn presence_of_who_comes_to_share_a_room_is_told() {
    let server = Server::new();
    let room = server.room(&[]).await;
    server.presence.set(alice(), PresenceState::Online, Some("here".to_owned())).await.unwrap();
    let first = server.initial(bob()).await;
    assert!(first.get("presence").is_none());
    server.join(bob(), &room).await;
    let second = server.after(bob(), &first).await;
    let events = &second["presence"]["events"];
    assert_eq!(
        (&events[0]["sender"], &events[0]["content"]["status_msg"]),
        (&json!(alice()), &json!("here")),
        "{second}"
    );
    assert!(server.after(bob(), &second).await.get("presence").is_none());
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

#[tokio::test]
async fn tokens_of_other_servers_are_refused() {
    let server = Server::new();
    for since in ["garbage", "s99999999", "t1_2"] {
        let request = SyncRequest { since: Some(since.to_owned()), ..request(bob(), None) };
        assert!(matches!(server.sync.sync(request).await, Err(SyncError::InvalidToken(_))), "{since}");
    }
    let request = SyncRequest { filter: FilterChoice::Stored("none".to_owned()), ..request(bob(), None) };
    assert!(matches!(server.sync.sync(request).await, Err(SyncError::UnknownFilter)));
}

#[tokio::test]
async fn answers_are_the_same_after_a_restart() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    server.say(alice(), &room, "1").await;
    // What a hub that starts now knows is nothing: the store is asked.
    let waiters = Waiters::follow(&server.store);
    let sources = SyncSources {
        rooms: server.rooms.clone(),
        account_data: server.account_data.clone(),
        receipts: server.receipts.clone(),
        typing: server.typing.clone(),
        presence: server.presence.clone(),
        to_device: server.to_device.clone(),
        device_lists: DeviceLists::new(server.store.clone()),
        filters: Arc::new(Filters::new(server.store.clone())),
        unread: test_rooms::unread(&server.rooms, &server.receipts, &server.account_data, &waiters),
        waiters,
    };
    let restarted = Arc::new(SyncService::new(sources));
    let answer = serde_json::to_value(restarted.sync(request(bob(), Some(&first))).await.unwrap()).unwrap();
    assert_eq!(timeline(&answer, "join", &room), ["1"]);
    let next = serde_json::to_value(restarted.sync(request(bob(), Some(&answer))).await.unwrap()).unwrap();
    assert!(next.get("rooms").is_none());
}
