use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chappe_store::{Batch, Direction, Position, tables::e2ee::CLAIMED_ONE_TIME_KEYS};
use ruma::{
    OneTimeKeyAlgorithm, UInt, UserId,
    api::{client::keys::upload_signatures::v3::SignedKeys, federation::device::get_devices::v1},
    device_id, server_name, user_id,
};
use serde_json::{Value, json};

use super::{
    DeviceKeysUpload, DeviceLists, EduError, Reauthentication, SigningKeys, SigningKeysError, UploadError,
    cross_signing::SignatureFailure,
    one_time_key_counts, parse_sync_token, queue_device_deleted,
    testing::{Bench, cross_signing_key, device_keys, key_pair, raw, sign},
    unused_fallback_key_types,
};

fn alice() -> &'static UserId {
    user_id!("@alice:ours.example")
}

fn bob() -> &'static UserId {
    user_id!("@bob:ours.example")
}

fn remy() -> &'static UserId {
    user_id!("@remy:remote.example")
}

fn one_time_keys(names: &[&str]) -> DeviceKeysUpload {
    let one_time_keys =
        names.iter().map(|name| (name.to_string().try_into().unwrap(), raw(&json!({ "key": name })))).collect();
    DeviceKeysUpload { one_time_keys, ..Default::default() }
}

fn identity(user: &UserId, device: &str, key: &str) -> DeviceKeysUpload {
    DeviceKeysUpload { device_keys: Some(raw(&device_keys(user, device, key))), ..Default::default() }
}

async fn claim(bench: &Bench, user: &UserId, device: &str) -> Option<String> {
    let wanted =
        BTreeMap::from([(user.to_owned(), BTreeMap::from([(device.into(), OneTimeKeyAlgorithm::SignedCurve25519)]))]);
    let mut answer = bench.keys.claim(bob(), wanted, None).await.unwrap();
    let keys = answer.one_time_keys.remove(user)?.into_values().next()?;
    keys.into_keys().next().map(|name| name.to_string())
}

async fn query(bench: &Bench, viewer: &UserId, user: &UserId) -> Value {
    let answer = bench.keys.query(viewer, BTreeMap::from([(user.to_owned(), Vec::new())]), None).await.unwrap();
    json!({
        "device_keys": answer.device_keys,
        "master_keys": answer.master_keys,
        "self_signing_keys": answer.self_signing_keys,
        "user_signing_keys": answer.user_signing_keys,
        "failures": answer.failures,
    })
}

#[tokio::test]
async fn one_time_keys_are_claimed_in_order_of_upload() {
    let bench = Bench::new();
    let phone = device_id!("PHONE");
    bench.keys.upload(alice(), phone, one_time_keys(&["signed_curve25519:ZZ"])).await.unwrap();
    bench.keys.upload(alice(), phone, one_time_keys(&["signed_curve25519:AA"])).await.unwrap();
    assert_eq!(claim(&bench, alice(), "PHONE").await.as_deref(), Some("signed_curve25519:ZZ"));
    assert_eq!(claim(&bench, alice(), "PHONE").await.as_deref(), Some("signed_curve25519:AA"));
    assert_eq!(claim(&bench, alice(), "PHONE").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_one_time_key_is_given_out_once_however_many_ask_at_the_same_time() {
    let bench = std::sync::Arc::new(Bench::new());
    let names: Vec<String> = (0..5).map(|number| format!("signed_curve25519:K{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.keys.upload(alice(), device_id!("PHONE"), one_time_keys(&names)).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let bench = bench.clone();
            tokio::spawn(async move { claim(&bench, alice(), "PHONE").await })
        })
        .collect();
    let mut claimed = Vec::new();
    for task in tasks {
        claimed.extend(task.await.unwrap());
    }
    let distinct: BTreeSet<_> = claimed.iter().cloned().collect();
    assert_eq!(claimed.len(), 5);
    assert_eq!(distinct.len(), 5);
}

#[tokio::test]
async fn a_one_time_key_can_be_uploaded_again_but_not_with_other_content() {
    let bench = Bench::new();
    let phone = device_id!("PHONE");
    let counts = bench.keys.upload(alice(), phone, one_time_keys(&["signed_curve25519:A"])).await.unwrap();
    assert_eq!(counts[&OneTimeKeyAlgorithm::SignedCurve25519], UInt::from(1_u8));
    let counts = bench.keys.upload(alice(), phone, one_time_keys(&["signed_curve25519:A"])).await.unwrap();
    assert_eq!(counts[&OneTimeKeyAlgorithm::SignedCurve25519], UInt::from(1_u8));

    let mut other = one_time_keys(&["signed_curve25519:B"]);
    other.one_time_keys.insert("signed_curve25519:A".to_owned().try_into().unwrap(), raw(&json!({ "key": "other" })));
    let refused = bench.keys.upload(alice(), phone, other).await;
    assert!(matches!(refused, Err(UploadError::OneTimeKeyExists { .. })), "{refused:?}");
    // Nothing of the refused upload was kept.
    let counts = one_time_key_counts(&bench.store, alice(), phone).unwrap();
    assert_eq!(counts[&OneTimeKeyAlgorithm::SignedCurve25519], UInt::from(1_u8));
}

#[tokio::test]
async fn a_claimed_one_time_key_that_is_uploaded_again_is_not_given_out_again() {
    let bench = Bench::new();
    let phone = device_id!("PHONE");
    bench.device(alice(), "PHONE").await;
    bench.keys.upload(alice(), phone, one_time_keys(&["signed_curve25519:A"])).await.unwrap();
    assert_eq!(claim(&bench, alice(), "PHONE").await.as_deref(), Some("signed_curve25519:A"));
    // The answer to the upload got lost: the client makes it again, with a further key.
    let again = one_time_keys(&["signed_curve25519:A", "signed_curve25519:B"]);
    let counts = bench.keys.upload(alice(), phone, again).await.unwrap();
    assert_eq!(counts[&OneTimeKeyAlgorithm::SignedCurve25519], UInt::from(1_u8));
    assert_eq!(claim(&bench, alice(), "PHONE").await.as_deref(), Some("signed_curve25519:B"));
    assert_eq!(claim(&bench, alice(), "PHONE").await, None);
    // Another key under a used name is another key.
    let mut other = one_time_keys(&["signed_curve25519:A"]);
    other.one_time_keys.values_mut().for_each(|key| *key = raw(&json!({ "key": "other" })));
    bench.keys.upload(alice(), phone, other).await.unwrap();
    assert_eq!(claim(&bench, alice(), "PHONE").await.as_deref(), Some("signed_curve25519:A"));

    // A device that is made anew begins anew.
    let mut batch = Batch::new();
    queue_device_deleted(&bench.store, &mut batch, alice(), phone).unwrap();
    bench.store.commit(batch).await.unwrap();
    assert_eq!(bench.store.scan(&CLAIMED_ONE_TIME_KEYS, &(), Direction::Forward).count(), 0);
}

#[tokio::test]
async fn only_the_newest_claimed_keys_of_a_device_are_remembered() {
    let bench = Bench::new();
    let phone = device_id!("PHONE");
    let names: Vec<String> = (0..1_003).map(|number| format!("signed_curve25519:K{number:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.keys.upload(alice(), phone, one_time_keys(&names)).await.unwrap();
    for _ in &names {
        claim(&bench, alice(), "PHONE").await.unwrap();
    }
    bench.keys.upload(alice(), phone, one_time_keys(&["signed_curve25519:NEW"])).await.unwrap();
    assert_eq!(bench.store.scan(&CLAIMED_ONE_TIME_KEYS, &(), Direction::Forward).count(), 1_000);
    bench.keys.upload(alice(), phone, one_time_keys(&names[5..])).await.unwrap();
    let counts = one_time_key_counts(&bench.store, alice(), phone).unwrap();
    assert_eq!(counts[&OneTimeKeyAlgorithm::SignedCurve25519], UInt::from(1_u8));
}

#[tokio::test]
async fn the_fallback_key_is_given_out_when_there_is_no_other_and_marked_as_used() {
    let bench = Bench::new();
    let phone = device_id!("PHONE");
    let mut upload = one_time_keys(&["signed_curve25519:ONCE"]);
    upload.fallback_keys = BTreeMap::from([(
        "signed_curve25519:BACK".to_owned().try_into().unwrap(),
        raw(&json!({ "key": "k", "fallback": true })),
    )]);
    bench.keys.upload(alice(), phone, upload).await.unwrap();
    assert_eq!(claim(&bench, alice(), "PHONE").await.as_deref(), Some("signed_curve25519:ONCE"));
    assert_eq!(unused_fallback_key_types(&bench.store, alice(), phone).unwrap().len(), 1);
    assert_eq!(claim(&bench, alice(), "PHONE").await.as_deref(), Some("signed_curve25519:BACK"));
    assert_eq!(claim(&bench, alice(), "PHONE").await.as_deref(), Some("signed_curve25519:BACK"));
    assert!(unused_fallback_key_types(&bench.store, alice(), phone).unwrap().is_empty());
}

#[tokio::test]
async fn claims_at_a_server_that_is_down_are_named_as_failures() {
    let bench = Bench::new();
    let wanted = BTreeMap::from([(
        remy().to_owned(),
        BTreeMap::from([("LAPTOP".into(), OneTimeKeyAlgorithm::SignedCurve25519)]),
    )]);
    let answer = bench.keys.claim(bob(), wanted, Some(Duration::from_secs(1))).await.unwrap();
    assert!(answer.failures.contains_key("remote.example"));
    assert!(answer.one_time_keys.is_empty());
}

#[tokio::test]
async fn device_keys_of_another_device_are_refused() {
    let bench = Bench::new();
    let refused = bench.keys.upload(alice(), device_id!("PHONE"), identity(alice(), "OTHER", "k")).await;
    assert!(matches!(refused, Err(UploadError::NotYours)));
    let refused = bench.keys.upload(alice(), device_id!("PHONE"), identity(bob(), "PHONE", "k")).await;
    assert!(matches!(refused, Err(UploadError::NotYours)));
}

#[tokio::test]
async fn queried_device_keys_carry_the_devices_name_for_local_users_only() {
    let bench = Bench::new();
    bench.device(alice(), "PHONE").await;
    bench.keys.upload(alice(), device_id!("PHONE"), identity(alice(), "PHONE", "k")).await.unwrap();
    let answer = query(&bench, bob(), alice()).await;
    let keys = &answer["device_keys"][alice().as_str()]["PHONE"];
    assert_eq!(keys["keys"]["ed25519:PHONE"], "k");
    assert_eq!(keys["unsigned"]["device_display_name"], "PHONE's name");

    let devices = bench.keys.get_user_devices(alice()).unwrap().unwrap();
    assert_eq!(devices.devices.len(), 1);
    let keys: Value = serde_json::from_str(devices.devices[0].keys.json().get()).unwrap();
    assert!(keys.get("unsigned").is_none());
    // A user without keys is still named.
    assert_eq!(query(&bench, alice(), bob()).await["device_keys"][bob().as_str()], json!({}));
}

#[tokio::test]
async fn changed_device_keys_reach_those_who_share_a_room_here_and_elsewhere() {
    let bench = Bench::new();
    let remote = server_name!("remote.example");
    for user in [alice(), bob(), remy()] {
        bench.join(1, user).await;
    }
    let before = bench.store.durable_position();
    bench.keys.upload(alice(), device_id!("PHONE"), identity(alice(), "PHONE", "one")).await.unwrap();
    bench.keys.upload(alice(), device_id!("PHONE"), identity(alice(), "PHONE", "one")).await.unwrap();
    bench.keys.upload(alice(), device_id!("PHONE"), identity(alice(), "PHONE", "two")).await.unwrap();

    let updates = bench.edus(remote, "m.device_list_update");
    assert_eq!(updates.len(), 2, "the same keys again are no update: {updates:?}");
    assert_eq!((&updates[0]["stream_id"], &updates[0]["prev_id"]), (&json!(1), &json!([])));
    assert_eq!((&updates[1]["stream_id"], &updates[1]["prev_id"]), (&json!(2), &json!([1])));
    assert_eq!(updates[1]["keys"]["keys"]["ed25519:PHONE"], "two");

    let lists = DeviceLists::new(bench.store.clone());
    let after = bench.store.durable_position();
    assert!(lists.changed_between(bob(), before, after).unwrap().changed.contains(alice()));
    assert!(lists.changed_between(alice(), before, after).unwrap().changed.contains(alice()));
    assert!(lists.changed_between(bob(), after, after).unwrap().changed.is_empty());
    let stranger = user_id!("@carol:ours.example");
    assert!(lists.changed_between(stranger, before, after).unwrap().changed.is_empty());
}

#[tokio::test]
async fn a_deleted_device_loses_its_keys_and_is_announced() {
    let bench = Bench::new();
    bench.join(1, alice()).await;
    bench.join(1, remy()).await;
    let phone = device_id!("PHONE");
    bench.keys.upload(alice(), phone, identity(alice(), "PHONE", "k")).await.unwrap();
    bench.keys.upload(alice(), phone, one_time_keys(&["signed_curve25519:A"])).await.unwrap();
    let mut batch = Batch::new();
    queue_device_deleted(&bench.store, &mut batch, alice(), phone).unwrap();
    bench.store.commit(batch).await.unwrap();
    assert_eq!(claim(&bench, alice(), "PHONE").await, None);
    assert_eq!(query(&bench, alice(), alice()).await["device_keys"][alice().as_str()], json!({}));
    let updates = bench.edus(server_name!("remote.example"), "m.device_list_update");
    assert_eq!(updates.last().unwrap()["deleted"], true);
}

#[tokio::test]
async fn who_joins_is_told_of_everyone_and_everyone_is_told_who_left() {
    let bench = Bench::new();
    let lists = DeviceLists::new(bench.store.clone());
    bench.join(1, bob()).await;
    let before = bench.store.durable_position();
    bench.join(1, alice()).await;
    let joined = bench.store.durable_position();
    let changes = lists.changed_between(alice(), before, joined).unwrap();
    assert_eq!(changes.changed, BTreeSet::from([alice().to_owned(), bob().to_owned()]));
    bench.membership(1, alice(), "leave").await;
    let left = bench.store.durable_position();
    let changes = lists.changed_between(alice(), joined, left).unwrap();
    assert_eq!(changes.left, BTreeSet::from([bob().to_owned()]));
    let changes = lists.changed_between(bob(), joined, left).unwrap();
    assert_eq!((changes.changed, changes.left), (BTreeSet::new(), BTreeSet::from([alice().to_owned()])));
}

#[tokio::test]
async fn a_new_name_of_ones_own_does_not_make_everyone_else_look_changed() {
    let bench = Bench::new();
    let lists = DeviceLists::new(bench.store.clone());
    bench.join(1, bob()).await;
    bench.join(1, alice()).await;
    let before = bench.store.durable_position();
    bench.join(1, alice()).await;
    let changes = lists.changed_between(alice(), before, bench.store.durable_position()).unwrap();
    assert!(!changes.changed.contains(bob()));
}

/// Alice's three cross-signing keys, with seeds 1, 2 and 3.
fn alices_keys() -> (SigningKeys, Value) {
    let (master, master_public) = key_pair(1);
    let master_id = format!("ed25519:{master_public}");
    let master_key = cross_signing_key(alice(), "master", &master_public);
    let mut self_signing = cross_signing_key(alice(), "self_signing", &key_pair(2).1);
    let mut user_signing = cross_signing_key(alice(), "user_signing", &key_pair(3).1);
    sign(&mut self_signing, alice(), &master_id, &master);
    sign(&mut user_signing, alice(), &master_id, &master);
    let keys = SigningKeys {
        master: Some(raw(&master_key)),
        self_signing: Some(raw(&self_signing)),
        user_signing: Some(raw(&user_signing)),
    };
    (keys, master_key)
}

#[tokio::test]
async fn first_cross_signing_keys_need_no_authentication_but_others_in_their_place_do() {
    let bench = Bench::new();
    bench.join(1, alice()).await;
    bench.join(1, remy()).await;
    let (keys, _) = alices_keys();
    bench.keys.upload_signing_keys(alice(), &keys, Reauthentication::NotDone).await.unwrap();
    let remote = server_name!("remote.example");
    assert_eq!(bench.edus(remote, "m.signing_key_update").len(), 1);
    // The same again: nothing happens.
    bench.keys.upload_signing_keys(alice(), &keys, Reauthentication::NotDone).await.unwrap();
    assert_eq!(bench.edus(remote, "m.signing_key_update").len(), 1);

    let other = cross_signing_key(alice(), "master", &key_pair(9).1);
    let other = SigningKeys { master: Some(raw(&other)), ..Default::default() };
    let refused = bench.keys.upload_signing_keys(alice(), &other, Reauthentication::NotDone).await;
    assert!(matches!(refused, Err(SigningKeysError::ReauthenticationNeeded)));
    bench.keys.upload_signing_keys(alice(), &other, Reauthentication::Done).await.unwrap();

    let seen_by_alice = query(&bench, alice(), alice()).await;
    let seen_by_bob = query(&bench, bob(), alice()).await;
    assert!(seen_by_alice["user_signing_keys"].get(alice().as_str()).is_some());
    assert!(seen_by_bob["user_signing_keys"].get(alice().as_str()).is_none());
    assert!(seen_by_bob["self_signing_keys"].get(alice().as_str()).is_some());
}

#[tokio::test]
async fn a_self_signing_key_with_a_forged_signature_is_refused_with_the_whole_upload() {
    let bench = Bench::new();
    let (master_public, forger) = (key_pair(1).1, key_pair(7).0);
    let mut self_signing = cross_signing_key(alice(), "self_signing", &key_pair(2).1);
    sign(&mut self_signing, alice(), &format!("ed25519:{master_public}"), &forger);
    let keys = SigningKeys {
        master: Some(raw(&cross_signing_key(alice(), "master", &master_public))),
        self_signing: Some(raw(&self_signing)),
        user_signing: None,
    };
    let refused = bench.keys.upload_signing_keys(alice(), &keys, Reauthentication::Done).await;
    assert!(matches!(refused, Err(SigningKeysError::BadSignature { usage: "self_signing" })));
    assert_eq!(query(&bench, alice(), alice()).await["master_keys"], json!({}));
    let without_master = SigningKeys { master: None, ..keys };
    let refused = bench.keys.upload_signing_keys(alice(), &without_master, Reauthentication::Done).await;
    assert!(matches!(refused, Err(SigningKeysError::NoMasterKey)));
}

fn signed_keys(id: &str, object: &Value) -> SignedKeys {
    serde_json::from_value(json!({ id: object })).unwrap()
}

#[tokio::test]
async fn a_forged_device_signature_is_refused_and_a_true_one_is_handed_out() {
    let bench = Bench::new();
    bench.join(1, alice()).await;
    bench.join(1, remy()).await;
    bench.keys.upload(alice(), device_id!("PHONE"), identity(alice(), "PHONE", "k")).await.unwrap();
    bench.keys.upload_signing_keys(alice(), &alices_keys().0, Reauthentication::NotDone).await.unwrap();
    let (self_signing, self_signing_public) = key_pair(2);
    let key_id = format!("ed25519:{self_signing_public}");

    let mut forged = device_keys(alice(), "PHONE", "k");
    sign(&mut forged, alice(), &key_id, &key_pair(7).0);
    let uploaded = BTreeMap::from([(alice().to_owned(), signed_keys("PHONE", &forged))]);
    let failures = bench.keys.upload_signatures(alice(), &uploaded).await.unwrap();
    assert_eq!(failures[alice()]["PHONE"], SignatureFailure::Invalid);
    let stored = query(&bench, bob(), alice()).await;
    assert_eq!(stored["device_keys"][alice().as_str()]["PHONE"]["signatures"], json!({}));

    let mut signed = device_keys(alice(), "PHONE", "k");
    sign(&mut signed, alice(), &key_id, &self_signing);
    let uploaded = BTreeMap::from([(alice().to_owned(), signed_keys("PHONE", &signed))]);
    assert!(bench.keys.upload_signatures(alice(), &uploaded).await.unwrap().is_empty());
    let stored = query(&bench, bob(), alice()).await;
    assert_eq!(stored["device_keys"][alice().as_str()]["PHONE"]["signatures"], signed["signatures"]);
    let updates = bench.edus(server_name!("remote.example"), "m.device_list_update");
    assert_eq!(updates.last().unwrap()["keys"]["signatures"], signed["signatures"]);
}

#[tokio::test]
async fn a_signature_of_another_users_master_key_is_seen_by_its_maker_only() {
    let bench = Bench::new();
    bench.keys.upload_signing_keys(alice(), &alices_keys().0, Reauthentication::NotDone).await.unwrap();
    let (_, bobs_public) = key_pair(20);
    let bobs_master = cross_signing_key(bob(), "master", &bobs_public);
    let bobs = SigningKeys { master: Some(raw(&bobs_master)), ..Default::default() };
    bench.keys.upload_signing_keys(bob(), &bobs, Reauthentication::NotDone).await.unwrap();

    let before = bench.store.durable_position();
    let (user_signing, user_signing_public) = key_pair(3);
    let mut signed = bobs_master.clone();
    sign(&mut signed, alice(), &format!("ed25519:{user_signing_public}"), &user_signing);
    let uploaded = BTreeMap::from([(bob().to_owned(), signed_keys(&bobs_public, &signed))]);
    assert!(bench.keys.upload_signatures(alice(), &uploaded).await.unwrap().is_empty());
    let master_for = |answer: Value| answer["master_keys"][bob().as_str()]["signatures"].clone();
    assert!(master_for(query(&bench, alice(), bob()).await).get(alice().as_str()).is_some());
    assert!(master_for(query(&bench, bob(), bob()).await).get(alice().as_str()).is_none());
    let lists = DeviceLists::new(bench.store.clone());
    let changes = lists.changed_between(alice(), before, bench.store.durable_position()).unwrap();
    assert!(changes.changed.contains(bob()));
}

fn remote_list(stream_id: u32, devices: &[(&str, &str)]) -> v1::Response {
    let mut response = v1::Response::new(remy().to_owned(), UInt::from(stream_id));
    for (device, key) in devices {
        response.devices.push(v1::UserDevice::new((*device).into(), raw(&device_keys(remy(), device, key))));
    }
    response
}

fn update(stream_id: u32, prev_id: &[u32], device: &str, key: &str) -> Value {
    json!({
        "user_id": remy(),
        "device_id": device,
        "stream_id": stream_id,
        "prev_id": prev_id,
        "keys": device_keys(remy(), device, key),
    })
}

/// The names of Remy's devices as Alice is told them.
async fn remys_devices(bench: &Bench) -> Vec<String> {
    let answer = query(bench, alice(), remy()).await;
    answer["device_keys"][remy().as_str()]
        .as_object()
        .map(|devices| devices.keys().cloned().collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_remote_device_list_is_fetched_once_and_then_follows_its_updates() {
    let bench = Bench::new();
    bench.join(1, alice()).await;
    bench.join(1, remy()).await;
    bench.servers.devices.lock().insert(remy().to_owned(), remote_list(4, &[("LAPTOP", "l")]));
    assert_eq!(remys_devices(&bench).await, ["LAPTOP"]);
    assert_eq!(remys_devices(&bench).await, ["LAPTOP"]);
    assert_eq!(*bench.servers.device_fetches.lock(), 1);

    let before = bench.store.durable_position();
    let remote = server_name!("remote.example");
    bench.keys.receive_device_list_update(remote, &update(5, &[4], "TABLET", "t")).await.unwrap();
    assert_eq!(remys_devices(&bench).await, ["LAPTOP", "TABLET"]);
    assert_eq!(*bench.servers.device_fetches.lock(), 1);
    let lists = DeviceLists::new(bench.store.clone());
    assert!(lists.changed_between(alice(), before, bench.store.durable_position()).unwrap().changed.contains(remy()));
}

#[tokio::test]
async fn a_gap_in_the_updates_of_a_remote_device_list_has_it_fetched_anew() {
    let bench = Bench::new();
    bench.join(1, alice()).await;
    bench.join(1, remy()).await;
    bench.servers.devices.lock().insert(remy().to_owned(), remote_list(4, &[("LAPTOP", "l")]));
    assert_eq!(remys_devices(&bench).await, ["LAPTOP"]);

    // Update 5 was lost, and the server is down when update 6 shows it.
    bench.servers.devices.lock().clear();
    let remote = server_name!("remote.example");
    bench.keys.receive_device_list_update(remote, &update(6, &[5], "TABLET", "t")).await.unwrap();
    let answer = query(&bench, alice(), remy()).await;
    assert!(answer["failures"].get("remote.example").is_some(), "{answer}");

    let before = bench.store.durable_position();
    bench.servers.devices.lock().insert(remy().to_owned(), remote_list(6, &[("PHONE", "p"), ("TABLET", "t")]));
    // The server is heard of again, so the list is fetched without anybody asking.
    bench.keys.spawn_retry_of(remote);
    let lists = DeviceLists::new(bench.store.clone());
    let told = async {
        while !lists.changed_between(alice(), before, bench.store.durable_position()).unwrap().changed.contains(remy())
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.unwrap();
    assert_eq!(remys_devices(&bench).await, ["PHONE", "TABLET"]);
    bench.keys.receive_device_list_update(remote, &update(7, &[6], "PHONE", "q")).await.unwrap();
    assert_eq!(remys_devices(&bench).await, ["PHONE", "TABLET"]);
}

#[tokio::test]
async fn a_device_list_is_not_relied_on_after_its_user_was_gone_for_a_while() {
    let bench = Bench::new();
    bench.join(1, alice()).await;
    bench.join(1, remy()).await;
    bench.servers.devices.lock().insert(remy().to_owned(), remote_list(4, &[("LAPTOP", "l")]));
    assert_eq!(remys_devices(&bench).await, ["LAPTOP"]);
    bench.membership(1, remy(), "leave").await;
    bench.servers.devices.lock().insert(remy().to_owned(), remote_list(9, &[("TABLET", "t")]));
    bench.join(1, remy()).await;
    assert_eq!(remys_devices(&bench).await, ["TABLET"]);
}

#[tokio::test]
async fn keys_of_users_who_share_no_room_are_asked_for_each_time() {
    let bench = Bench::new();
    let keys = BTreeMap::from([
        ("LAPTOP".into(), device_keys(remy(), "LAPTOP", "l")),
        ("FALSE".into(), device_keys(remy(), "OTHER", "x")),
    ]);
    bench.servers.keys.lock().insert(remy().to_owned(), keys);
    assert_eq!(remys_devices(&bench).await, ["LAPTOP"]);
    assert_eq!(remys_devices(&bench).await, ["LAPTOP"]);
    assert_eq!(*bench.servers.key_fetches.lock(), 2);
    assert_eq!(*bench.servers.device_fetches.lock(), 0);
}

#[tokio::test]
async fn updates_about_another_servers_user_are_not_believed() {
    let bench = Bench::new();
    bench.join(1, alice()).await;
    bench.join(1, remy()).await;
    let liar = server_name!("liar.example");
    let refused = bench.keys.receive_device_list_update(liar, &update(5, &[4], "EVIL", "e")).await;
    assert!(matches!(refused, Err(EduError::NotTheirs)));
    let refused = bench.keys.receive_signing_key_update(liar, &json!({ "user_id": remy() })).await;
    assert!(matches!(refused, Err(EduError::NotTheirs)));
    for malformed in
        [json!(null), json!({ "user_id": 5 }), json!({ "user_id": remy(), "device_id": "a\0b", "stream_id": 1 })]
    {
        let refused = bench.keys.receive_device_list_update(server_name!("remote.example"), &malformed).await;
        assert!(matches!(refused, Err(EduError::Malformed(_))), "{malformed}");
    }
}

#[tokio::test]
async fn a_remote_users_cross_signing_keys_are_handed_out_when_their_server_tells_them() {
    let bench = Bench::new();
    bench.join(1, alice()).await;
    bench.join(1, remy()).await;
    bench.servers.devices.lock().insert(remy().to_owned(), remote_list(1, &[("LAPTOP", "l")]));
    assert_eq!(remys_devices(&bench).await, ["LAPTOP"]);
    let master = cross_signing_key(remy(), "master", &key_pair(30).1);
    let edu = json!({ "user_id": remy(), "master_key": master });
    bench.keys.receive_signing_key_update(server_name!("remote.example"), &edu).await.unwrap();
    assert_eq!(query(&bench, alice(), remy()).await["master_keys"][remy().as_str()], master);
}

#[test]
fn sync_tokens_are_read_up_to_the_end_of_their_digits() {
    assert_eq!(parse_sync_token("s42"), Some(Position(42)));
    assert_eq!(parse_sync_token("s42_7"), Some(Position(42)));
    assert_eq!(parse_sync_token("42"), None);
    assert_eq!(parse_sync_token("s"), None);
}

#[tokio::test]
async fn servers_of_a_room_that_a_user_joins_are_told_of_the_devices_once() {
    let bench = Bench::new();
    let there = server_name!("there.example");
    bench.device(alice(), "PHONE").await;
    bench.device(alice(), "LAPTOP").await;
    bench.join(1, user_id!("@bob:there.example")).await;
    bench.join(1, alice()).await;
    let tell = async |room: u64, joined: &UserId| {
        let mut batch = Batch::new();
        bench.keys.queue_to_newly_sharing(&mut batch, chappe_store::RoomNid(room), joined).unwrap();
        bench.store.commit(batch).await.unwrap();
    };
    tell(1, alice()).await;
    let told = bench.edus(there, "m.device_list_update");
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|edu| edu["user_id"] == alice().as_str() && edu["prev_id"] == json!([])));

    bench.join(2, user_id!("@bob:there.example")).await;
    bench.join(2, alice()).await;
    tell(2, alice()).await;
    assert_eq!(bench.edus(there, "m.device_list_update").len(), 2, "it gets her updates already");

    bench.join(1, user_id!("@carol:elsewhere.example")).await;
    tell(1, user_id!("@carol:elsewhere.example")).await;
    assert!(
        bench.edus(server_name!("elsewhere.example"), "m.device_list_update").is_empty(),
        "it asks for what it needs"
    );
}

#[tokio::test]
async fn names_of_devices_are_told_to_other_servers_only_if_the_operator_wants() {
    for is_shared in [false, true] {
        let bench = Bench::new();
        let keys = bench.keys.clone().sharing_device_names(is_shared);
        bench.device(alice(), "PHONE").await;
        let upload = DeviceKeysUpload {
            device_keys: Some(raw(&device_keys(alice(), "PHONE", "key"))),
            ..DeviceKeysUpload::default()
        };
        keys.upload(alice(), "PHONE".into(), upload).await.unwrap();
        let devices = keys.get_user_devices(alice()).unwrap().unwrap().devices;
        assert_eq!(devices[0].device_display_name.as_deref(), is_shared.then_some("PHONE's name"));
        let queried = keys.query_local(BTreeMap::from([(alice().to_owned(), Vec::new())])).unwrap();
        let text = serde_json::to_string(&queried.device_keys).unwrap();
        assert_eq!(text.contains("PHONE's name"), is_shared);
    }
}
