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

use super::{
    FilterChoice, StateStyle, SyncAnswer, SyncError, SyncRequest, SyncService, SyncSources, devices::PollingDevices,
    joined_rooms::JoinedRooms, waiters::Waiters,
};
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

mod beside_events;
mod first;
mod members;
mod membership;
mod rooms;
mod waiting;

fn alice() -> &'static UserId {
    user_id!("@alice:here.example")
}

fn bob() -> &'static UserId {
    user_id!("@bob:here.example")
}

fn carol() -> &'static UserId {
    user_id!("@carol:here.example")
}

/// An answer as its client reads it.
async fn whole(answer: SyncAnswer) -> Value {
    match answer {
        SyncAnswer::Whole(response) => serde_json::to_value(response).unwrap(),
        SyncAnswer::First(mut first) => {
            let mut text = Vec::new();
            while let Some(chunk) = first.next_chunk().await.unwrap() {
                text.extend_from_slice(&chunk);
            }
            serde_json::from_slice(&text).unwrap()
        }
    }
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
            device_lists: DeviceLists::new(store.clone()),
            filters: Arc::new(Filters::new(store.clone())),
            unread,
            joined_rooms: JoinedRooms::new(rooms.clone(), waiters.clone()),
            devices: PollingDevices::new(rooms.store().clone(), to_device.clone(), waiters.clone()),
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
        whole(self.sync.sync(request.into()).await.unwrap()).await
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
