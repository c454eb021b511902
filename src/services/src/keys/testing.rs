//! What tests of keys and messages to devices share: a store with devices and rooms, and other servers that answer from memory.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use chappe_store::{
    Batch, Direction, RoomNid, Stamped, Store,
    tables::{
        accounts::{DEVICES, DeviceRecord},
        e2ee::JsonObject,
        events::{EVENT_JSON, TIMELINE},
        outgoing::{OUTGOING, OutgoingItem},
        rooms::{JOINED_SERVERS, MEMBERS, MEMBERSHIP_LOG, MemberRecord, SERVER_ROOMS, USER_ROOMS},
    },
};
use ed25519_dalek::{Signer, SigningKey};
use parking_lot::Mutex;
use ruma::{
    OwnedDeviceId, OwnedUserId, ServerName, UserId,
    api::federation::{
        device::get_devices,
        keys::{claim_keys, get_keys},
    },
    owned_server_name,
    serde::Raw,
};
use serde_json::{Value, json};

use super::{FetchError, FetchFuture, KeyFederation, Keys, signature::signed_text};

pub(crate) const OURS: &str = "ours.example";

/// Other servers, as far as they were told what to answer.
#[derive(Default)]
pub(crate) struct FakeServers {
    pub(crate) devices: Mutex<BTreeMap<OwnedUserId, get_devices::v1::Response>>,
    pub(crate) keys: Mutex<BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Value>>>,
    pub(crate) device_fetches: Mutex<usize>,
    pub(crate) key_fetches: Mutex<usize>,
}

fn is_down<T>() -> Result<T, FetchError> {
    Err(FetchError { message: "is down".to_owned(), status: None })
}

impl KeyFederation for FakeServers {
    fn fetch_keys<'a>(
        &'a self,
        _server: &'a ServerName,
        request: get_keys::v1::Request,
        _timeout: Duration,
    ) -> FetchFuture<'a, get_keys::v1::Response> {
        *self.key_fetches.lock() += 1;
        let mut response = get_keys::v1::Response::default();
        for user in request.device_keys.keys() {
            if let Some(devices) = self.keys.lock().get(user) {
                let devices = devices.iter().map(|(device, keys)| (device.clone(), raw(keys))).collect();
                response.device_keys.insert(user.clone(), devices);
            }
        }
        let answer = if response.device_keys.is_empty() { is_down() } else { Ok(response) };
        Box::pin(async move { answer })
    }

    fn fetch_claimed_keys<'a>(
        &'a self,
        _server: &'a ServerName,
        _request: claim_keys::v1::Request,
        _timeout: Duration,
    ) -> FetchFuture<'a, claim_keys::v1::Response> {
        Box::pin(async { is_down() })
    }

    fn fetch_devices<'a>(
        &'a self,
        _server: &'a ServerName,
        request: get_devices::v1::Request,
        _timeout: Duration,
    ) -> FetchFuture<'a, get_devices::v1::Response> {
        *self.device_fetches.lock() += 1;
        let answer = self.devices.lock().get(&request.user_id).cloned().map_or_else(is_down, Ok);
        Box::pin(async move { answer })
    }
}

pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) keys: Keys,
    pub(crate) servers: Arc<FakeServers>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let store = Store::in_memory();
        let servers = Arc::new(FakeServers::default());
        let keys = Keys::new(store.clone(), owned_server_name!("ours.example"), servers.clone());
        Self { store, keys, servers }
    }

    /// A local user with a device.
    pub(crate) async fn device(&self, user: &UserId, device: &str) {
        let mut batch = Batch::new();
        let record = DeviceRecord { display_name: Some(format!("{device}'s name")), created_at_ms: 0 };
        batch.put(&DEVICES, &(user.to_owned(), device.into()), &record);
        self.store.commit(batch).await.unwrap();
    }

    pub(crate) async fn join(&self, room: u64, user: &UserId) {
        self.membership(room, user, "join").await;
    }

    pub(crate) async fn membership(&self, room: u64, user: &UserId, membership: &str) {
        let room = RoomNid(room);
        let mut batch = Batch::new();
        let position = batch.next_position();
        let value = MemberRecord {
            membership: membership.to_owned(),
            event: None,
            event_id: ruma::owned_event_id!("$member"),
            sender: user.to_owned(),
            display_name: None,
            avatar_url: None,
        };
        let member = Stamped { position, value };
        batch.put(&MEMBERS, &(room, user.to_owned()), &member);
        let event = self.store.interner().next_event();
        let json = json!({ "type": "m.room.member", "state_key": user, "content": { "membership": membership } });
        batch.put(&TIMELINE, &(room, position), &event);
        batch.put(&EVENT_JSON, &event, &json.to_string());
        let server = user.server_name().to_owned();
        if server == OURS {
            batch.put(&USER_ROOMS, &(user.to_owned(), room), &member);
            batch.put(&MEMBERSHIP_LOG, &(user.to_owned(), position), &room);
        }
        if membership == "join" {
            batch.put(&JOINED_SERVERS, &(room, server.clone()), &1);
            batch.put(&SERVER_ROOMS, &(server, room), &());
        } else {
            batch.delete(&JOINED_SERVERS, &(room, server.clone()));
            batch.delete(&SERVER_ROOMS, &(server, room));
        }
        self.store.commit(batch).await.unwrap();
    }

    /// The EDUs that wait for a server.
    pub(crate) fn edus(&self, server: &ServerName, edu_type: &str) -> Vec<Value> {
        let rows = self.store.scan(&OUTGOING, &(server.to_owned(),), Direction::Forward);
        rows.filter_map(|row| match row.unwrap().1 {
            OutgoingItem::Edu(edu) => serde_json::from_str::<Value>(&edu).ok(),
            _ => None,
        })
        .filter(|edu| edu["edu_type"] == edu_type)
        .map(|edu| edu["content"].clone())
        .collect()
    }
}

pub(crate) fn raw<T>(value: &Value) -> Raw<T> {
    Raw::from_json(serde_json::value::to_raw_value(value).unwrap())
}

pub(crate) fn device_keys(user: &UserId, device: &str, key: &str) -> Value {
    json!({
        "user_id": user,
        "device_id": device,
        "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": { format!("ed25519:{device}"): key, format!("curve25519:{device}"): "curve" },
        "signatures": {},
    })
}

/// A key pair whose seed is one byte, repeated.
pub(crate) fn key_pair(seed: u8) -> (SigningKey, String) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = STANDARD_NO_PAD.encode(key.verifying_key().as_bytes());
    (key, public)
}

/// Adds a signature to a JSON object.
pub(crate) fn sign(object: &mut Value, user: &UserId, key_id: &str, key: &SigningKey) {
    let text = signed_text(&as_object(object)).unwrap();
    let signature = STANDARD_NO_PAD.encode(key.sign(text.as_bytes()).to_bytes());
    object["signatures"][user.as_str()][key_id] = Value::from(signature);
}

pub(crate) fn as_object(value: &Value) -> JsonObject {
    value.as_object().unwrap().clone()
}

pub(crate) fn cross_signing_key(user: &UserId, usage: &str, public: &str) -> Value {
    json!({
        "user_id": user,
        "usage": [usage],
        "keys": { format!("ed25519:{public}"): public },
        "signatures": {},
    })
}
