use std::{collections::BTreeMap, sync::Arc};

use chappe_protocol::clock::ManualClock;
use chappe_store::Position;
use ruma::{UserId, device_id, owned_server_name, server_name, to_device::DeviceIdOrAllDevices, user_id};
use serde_json::{Value, json};

use super::{EDU_BYTES_MAX, Messages, SendError, TRANSACTION_KEPT_MS, ToDevice};
use crate::keys::{
    EduError,
    testing::{Bench, raw},
};

struct Post {
    bench: Bench,
    to_device: ToDevice,
    clock: Arc<ManualClock>,
}

async fn post() -> Post {
    let bench = Bench::new();
    for device in ["PHONE", "LAPTOP"] {
        bench.device(bob(), device).await;
    }
    let clock = Arc::new(ManualClock::new(1_000_000));
    let to_device =
        ToDevice::new(bench.store.clone(), owned_server_name!("ours.example"), clock.clone(), bench.keys.clone());
    Post { bench, to_device, clock }
}

fn alice() -> &'static UserId {
    user_id!("@alice:ours.example")
}

fn bob() -> &'static UserId {
    user_id!("@bob:ours.example")
}

fn messages(user: &UserId, device: &str, content: Value) -> Messages {
    let device = DeviceIdOrAllDevices::try_from(device).unwrap();
    BTreeMap::from([(user.to_owned(), BTreeMap::from([(device, raw(&content))]))])
}

impl Post {
    async fn send(&self, transaction: &str, messages: &Messages) -> Result<(), SendError> {
        self.to_device.send(alice(), device_id!("DESK"), "m.test", transaction.into(), messages).await
    }

    /// What Bob's device is given after `from`, and the token it continues with.
    fn sync(&self, device: &str, from: Position) -> (Vec<Value>, Position) {
        let up_to = self.bench.store.durable_position();
        let inbox = self.to_device.scan(bob(), device.into(), from, up_to, 100).unwrap();
        (inbox.events.iter().map(|event| serde_json::from_str(event).unwrap()).collect(), inbox.up_to)
    }
}

#[tokio::test]
async fn a_transaction_is_delivered_once_to_each_device() {
    let post = post().await;
    let hello = messages(bob(), "*", json!({ "n": 1 }));
    post.send("t1", &hello).await.unwrap();
    post.send("t1", &hello).await.unwrap();
    for device in ["PHONE", "LAPTOP"] {
        let (events, _) = post.sync(device, Position::ZERO);
        assert_eq!(events, [json!({ "content": { "n": 1 }, "sender": alice(), "type": "m.test" })]);
    }
    post.send("t2", &hello).await.unwrap();
    assert_eq!(post.sync("PHONE", Position::ZERO).0.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transaction_sent_many_times_at_once_is_delivered_once() {
    let post = Arc::new(post().await);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let post = post.clone();
            tokio::spawn(async move { post.send("t", &messages(bob(), "PHONE", json!({}))).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(post.sync("PHONE", Position::ZERO).0.len(), 1);
}

#[tokio::test]
async fn a_message_is_given_until_it_is_acknowledged_and_then_never_again() {
    let post = post().await;
    post.send("t1", &messages(bob(), "PHONE", json!({ "n": 1 }))).await.unwrap();
    let (events, token) = post.sync("PHONE", Position::ZERO);
    assert_eq!(events.len(), 1);
    assert_eq!(post.sync("PHONE", Position::ZERO).0.len(), 1, "the answer may have been lost on its way");
    post.send("t2", &messages(bob(), "PHONE", json!({ "n": 2 }))).await.unwrap();
    post.to_device.ack(bob(), device_id!("PHONE"), token).unwrap();
    let (events, _) = post.sync("PHONE", Position::ZERO);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["content"]["n"], 2);
}

#[tokio::test]
async fn more_messages_than_fit_come_with_the_next_sync() {
    let post = post().await;
    for number in 0..5 {
        post.send(&format!("t{number}"), &messages(bob(), "PHONE", json!({ "n": number }))).await.unwrap();
    }
    let up_to = post.bench.store.durable_position();
    let first = post.to_device.scan(bob(), device_id!("PHONE"), Position::ZERO, up_to, 3).unwrap();
    assert!(first.limited && first.events.len() == 3 && first.up_to < up_to);
    let rest = post.to_device.scan(bob(), device_id!("PHONE"), first.up_to, up_to, 3).unwrap();
    assert!(!rest.limited && rest.events.len() == 2 && rest.up_to == up_to);
}

#[tokio::test]
async fn messages_to_unknown_devices_are_dropped() {
    let post = post().await;
    post.send("t", &messages(bob(), "GONE", json!({}))).await.unwrap();
    post.bench.device(bob(), "GONE").await;
    assert!(post.sync("GONE", Position::ZERO).0.is_empty());
}

#[tokio::test]
async fn messages_to_remote_users_wait_for_their_server_in_edus_of_bounded_size() {
    let post = post().await;
    let remy = user_id!("@remy:remote.example");
    let large = "x".repeat(EDU_BYTES_MAX / 2);
    let devices =
        ["A", "B", "C"].map(|device| (DeviceIdOrAllDevices::try_from(device).unwrap(), raw(&json!({ "text": large }))));
    let to_remy = BTreeMap::from([(remy.to_owned(), BTreeMap::from(devices))]);
    post.send("t", &to_remy).await.unwrap();
    post.send("t", &to_remy).await.unwrap();
    let edus = post.bench.edus(server_name!("remote.example"), "m.direct_to_device");
    assert_eq!(edus.len(), 3);
    assert_ne!(edus[0]["message_id"], edus[1]["message_id"]);
    assert_eq!(edus[0]["sender"], alice().as_str());
    let oversized = messages(remy, "A", json!({ "text": "x".repeat(EDU_BYTES_MAX) }));
    assert!(matches!(post.send("u", &oversized).await, Err(SendError::TooLarge)));
}

#[tokio::test]
async fn a_message_from_another_server_is_delivered_once_and_only_from_its_own_users() {
    let post = post().await;
    let edu = json!({
        "sender": "@remy:remote.example",
        "type": "m.test",
        "message_id": "m1",
        "messages": {
            bob().as_str(): { "PHONE": { "n": 1 }, "GONE": {}, "": {} },
            "not a user": { "X": {} },
            "@else:where.example": { "*": {} },
        },
    });
    let remote = server_name!("remote.example");
    post.to_device.receive_direct_to_device(remote, &edu).await.unwrap();
    post.to_device.receive_direct_to_device(remote, &edu).await.unwrap();
    let (events, _) = post.sync("PHONE", Position::ZERO);
    assert_eq!(events, [json!({ "content": { "n": 1 }, "sender": "@remy:remote.example", "type": "m.test" })]);

    let refused = post.to_device.receive_direct_to_device(server_name!("liar.example"), &edu).await;
    assert!(matches!(refused, Err(EduError::NotTheirs)));
    let refused = post.to_device.receive_direct_to_device(remote, &json!({ "sender": 1 })).await;
    assert!(matches!(refused, Err(EduError::Malformed(_))));
}

#[tokio::test]
async fn old_transaction_ids_are_forgotten() {
    let post = post().await;
    post.send("old", &messages(bob(), "PHONE", json!({}))).await.unwrap();
    post.clock.advance(TRANSACTION_KEPT_MS + 1);
    post.send("new", &messages(bob(), "PHONE", json!({}))).await.unwrap();
    post.send("old", &messages(bob(), "PHONE", json!({}))).await.unwrap();
    assert_eq!(post.sync("PHONE", Position::ZERO).0.len(), 3);
}
