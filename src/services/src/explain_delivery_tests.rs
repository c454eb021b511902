use std::sync::Arc;

use chappe_protocol::clock::ManualClock;
use chappe_rooms::create::Preset;
use chappe_store::{
    Batch,
    record::Json,
    tables::{
        accounts::{DeviceRecord, DeviceSeenRecord},
        destinations::DestinationRecord,
        e2ee::{JsonObject, RemoteDevice},
    },
};
use ruma::{
    OneTimeKeyAlgorithm, OwnedEventId, TransactionId, event_id, owned_device_id, owned_server_name, serde::Raw,
    to_device::DeviceIdOrAllDevices, user_id,
};
use serde_json::json;

use super::*;
use crate::{
    keys::{
        DeviceKeysUpload,
        testing::{FakeServers, device_keys, raw},
    },
    test_rooms,
    to_device::{Messages, ToDevice},
};

struct Scene {
    store: Store,
    rooms: Rooms,
    keys: Keys,
    to_device: ToDevice,
    event: OwnedEventId,
}

/// Alice, on this server, has sent an encrypted event to a public room; Bob of this server is in it.
async fn scene() -> Scene {
    let store = Store::in_memory();
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let rooms = test_rooms::rooms(&store, clock.clone());
    let keys = Keys::new(store.clone(), owned_server_name!("here.example"), Arc::new(FakeServers::default()))
        .noting_claims(clock.clone());
    let to_device = ToDevice::new(store.clone(), owned_server_name!("here.example"), clock, keys.clone());
    let room = test_rooms::create(&rooms, alice(), Preset::PublicChat).await;
    test_rooms::join(&rooms, bob(), &room).await;
    let content = json!({ "algorithm": "m.megolm.v1.aes-sha2", "session_id": "S", "ciphertext": "x" });
    let event = test_rooms::send(&rooms, alice(), &room, "m.room.encrypted", content).await;
    Scene { store, rooms, keys, to_device, event }
}

fn alice() -> &'static UserId {
    user_id!("@alice:here.example")
}

fn bob() -> &'static UserId {
    user_id!("@bob:here.example")
}

fn carol() -> &'static UserId {
    user_id!("@carol:there.example")
}

impl Scene {
    fn explain(&self, event: &EventId, reader: &UserId, device: &str) -> Vec<Finding> {
        explain_delivery(&self.rooms, &self.keys, event, reader, device.into()).unwrap()
    }

    /// Alice sends a message to a device.
    async fn send(&self, to: &UserId, device: &str) {
        let content = Raw::from_json(serde_json::value::to_raw_value(&json!({ "ciphertext": {} })).unwrap());
        let devices = [(DeviceIdOrAllDevices::DeviceId(device.into()), content)].into();
        let messages = Messages::from([(to.to_owned(), devices)]);
        self.to_device.send(alice(), "A".into(), "m.room.encrypted", &TransactionId::new(), &messages).await.unwrap();
    }
}

fn standing_of(findings: &[Finding], step: &str) -> Option<Standing> {
    findings.iter().find(|finding| finding.step == step).map(|finding| finding.standing)
}

#[tokio::test]
async fn a_key_is_followed_to_a_local_device_from_its_login_to_its_acknowledgement() {
    let scene = scene().await;
    let phone = owned_device_id!("PHONE");
    let explain = || scene.explain(&scene.event, bob(), "PHONE");
    assert_eq!(standing_of(&scene.explain(event_id!("$unknown"), bob(), "PHONE"), "event"), Some(Standing::Broken));
    assert_eq!(standing_of(&explain(), "device"), Some(Standing::Broken));
    assert!(find_owners(&scene.rooms, &scene.event, &phone).unwrap().is_empty());

    let row = (bob().to_owned(), phone.clone());
    let mut batch = Batch::new();
    batch.put(&DEVICES, &row, &DeviceRecord { display_name: None, created_at_ms: 1_600_000_000_000 });
    batch.put(&DEVICES_SEEN, &row, &DeviceSeenRecord { at_ms: 1_699_999_940_000, address: None });
    scene.store.commit(batch).await.unwrap();
    assert_eq!(find_owners(&scene.rooms, &scene.event, &phone).unwrap(), [bob()]);
    let findings = explain();
    assert_eq!(standing_of(&findings, "reader in the room"), Some(Standing::Good));
    assert_eq!(standing_of(&findings, "device"), Some(Standing::Good));
    assert_eq!(standing_of(&findings, "device's identity keys"), Some(Standing::Broken));
    assert_eq!(standing_of(&findings, "device's one-time keys"), Some(Standing::Broken));
    assert_eq!(standing_of(&findings, "key claimed"), Some(Standing::Unknown));
    assert_eq!(standing_of(&findings, "message queued"), Some(Standing::Broken));

    let one_time_keys = [("signed_curve25519:K".to_owned().try_into().unwrap(), raw(&json!({ "key": "k" })))];
    let upload = DeviceKeysUpload {
        device_keys: Some(raw(&device_keys(bob(), "PHONE", "k"))),
        one_time_keys: one_time_keys.into(),
        ..DeviceKeysUpload::default()
    };
    scene.keys.upload(bob(), &phone, upload).await.unwrap();
    let claims = || [(bob().to_owned(), [(phone.clone(), OneTimeKeyAlgorithm::SignedCurve25519)].into())].into();
    scene.keys.claim(alice(), claims(), None).await.unwrap();
    assert_eq!(standing_of(&explain(), "key claimed"), Some(Standing::Good));
    scene.send(bob(), "PHONE").await;
    let findings = explain();
    assert_eq!(standing_of(&findings, "device's identity keys"), Some(Standing::Good));
    assert_eq!(standing_of(&findings, "message queued"), Some(Standing::Good));
    assert_eq!(standing_of(&findings, "given to the device"), Some(Standing::Waiting));

    scene.to_device.ack(bob(), &phone, scene.store.durable_position()).unwrap();
    scene.store.barrier().await.unwrap();
    assert_eq!(standing_of(&explain(), "given to the device"), Some(Standing::Good));
    // The last key is used up.
    scene.keys.claim(alice(), claims(), None).await.unwrap();
    assert_eq!(standing_of(&explain(), "key claimed"), Some(Standing::Broken));
}

#[tokio::test]
async fn messages_that_wait_for_a_server_that_is_down_are_named() {
    let scene = scene().await;
    let server = owned_server_name!("there.example");
    let mut batch = Batch::new();
    let failing = DestinationRecord { failing_since_ms: 1_699_999_000_000, retry_at_ms: 0, pause_ms: 0 };
    batch.put(&DESTINATIONS, &server, &failing);
    let laptop = RemoteDevice { keys: JsonObject::new(), display_name: None };
    batch.put(&REMOTE_DEVICES, &(carol().to_owned(), "LAPTOP".into()), &Json(laptop));
    scene.store.commit(batch).await.unwrap();
    scene.send(carol(), "LAPTOP").await;

    let findings = scene.explain(&scene.event, carol(), "LAPTOP");
    assert_eq!(standing_of(&findings, "device list"), Some(Standing::Waiting));
    assert_eq!(standing_of(&findings, "device"), Some(Standing::Good));
    assert_eq!(standing_of(&findings, "way between the servers"), Some(Standing::Waiting));
    assert_eq!(standing_of(&findings, "message sent"), Some(Standing::Waiting));
    let other = scene.explain(&scene.event, carol(), "OTHER");
    assert_eq!(standing_of(&other, "device"), Some(Standing::Broken));
    assert_eq!(standing_of(&other, "message queued"), Some(Standing::Broken));

    let mut batch = Batch::new();
    batch.delete_prefix(&OUTGOING, &(server,));
    scene.store.commit(batch).await.unwrap();
    assert_eq!(standing_of(&scene.explain(&scene.event, carol(), "LAPTOP"), "message sent"), Some(Standing::Good));
}
