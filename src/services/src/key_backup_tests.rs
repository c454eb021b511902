use chappe_store::{Store, tables::e2ee::JsonObject};
use ruma::{UserId, user_id};
use serde_json::{Value, json};

use super::{BackupError, BackupRooms, BackupSelection, KeyBackup};

const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

fn alice() -> &'static UserId {
    user_id!("@alice:ours.example")
}

fn object(value: Value) -> JsonObject {
    value.as_object().unwrap().clone()
}

fn key(is_verified: bool, first_message_index: u64, forwarded_count: u64, text: &str) -> BackupRooms {
    let key = object(json!({
        "is_verified": is_verified,
        "first_message_index": first_message_index,
        "forwarded_count": forwarded_count,
        "session_data": { "ciphertext": text },
    }));
    BackupRooms::from([("!room:ours.example".to_owned(), [("session".to_owned(), key)].into())])
}

async fn backup() -> (KeyBackup, String) {
    let backup = KeyBackup::new(Store::in_memory());
    let version = backup.create_version(alice(), ALGORITHM, &object(json!({ "public_key": "k" }))).await.unwrap();
    (backup, version)
}

fn stored_text(backup: &KeyBackup, version: &str) -> String {
    let selection = BackupSelection::Session { room: "!room:ours.example", session: "session" };
    let rooms = backup.get_keys(alice(), version, selection).unwrap();
    rooms["!room:ours.example"]["session"]["session_data"]["ciphertext"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_backed_up_key_is_replaced_only_by_a_better_one() {
    let (backup, version) = backup().await;
    let first = backup.put_keys(alice(), &version, &key(false, 5, 5, "first")).await.unwrap();
    assert_eq!(first.count, 1);
    for (uploaded, kept) in [
        (key(false, 5, 5, "same rank"), "first"),
        (key(false, 5, 6, "more hands"), "first"),
        (key(false, 5, 4, "fewer hands"), "fewer hands"),
        (key(false, 6, 0, "later start"), "fewer hands"),
        (key(false, 4, 9, "earlier start"), "earlier start"),
        (key(true, 9, 9, "verified"), "verified"),
        (key(false, 0, 0, "unverified"), "verified"),
    ] {
        let state = backup.put_keys(alice(), &version, &uploaded).await.unwrap();
        assert_eq!(stored_text(&backup, &version), kept);
        assert_eq!(state.count, 1);
    }
    let before = backup.get_version(alice(), &version).unwrap().etag;
    backup.put_keys(alice(), &version, &key(false, 0, 0, "unverified")).await.unwrap();
    assert_eq!(backup.get_version(alice(), &version).unwrap().etag, before, "nothing changed, so the etag stays");
}

#[tokio::test]
async fn keys_go_to_the_current_version_only() {
    let (backup, first) = backup().await;
    let second = backup.create_version(alice(), ALGORITHM, &JsonObject::new()).await.unwrap();
    assert_ne!(first, second);
    let refused = backup.put_keys(alice(), &first, &key(true, 0, 0, "k")).await;
    assert!(matches!(refused, Err(BackupError::WrongVersion { current_version }) if current_version == second));
    let refused = backup.put_keys(alice(), "17", &key(true, 0, 0, "k")).await;
    assert!(matches!(refused, Err(BackupError::UnknownVersion)));
    let refused = backup.put_keys(alice(), "nonsense", &key(true, 0, 0, "k")).await;
    assert!(matches!(refused, Err(BackupError::UnknownVersion)));
}

#[tokio::test]
async fn a_deleted_version_is_gone_and_its_number_is_not_used_again() {
    let (backup, first) = backup().await;
    let second = backup.create_version(alice(), ALGORITHM, &JsonObject::new()).await.unwrap();
    backup.put_keys(alice(), &second, &key(true, 0, 0, "k")).await.unwrap();
    backup.delete_version(alice(), &second).await.unwrap();
    assert!(matches!(backup.get_version(alice(), &second), Err(BackupError::UnknownVersion)));
    assert!(matches!(backup.get_keys(alice(), &second, BackupSelection::All), Err(BackupError::UnknownVersion)));
    assert!(matches!(backup.delete_version(alice(), &second).await, Err(BackupError::UnknownVersion)));
    assert_eq!(backup.get_current_version(alice()).unwrap().version, first);
    let third = backup.create_version(alice(), ALGORITHM, &JsonObject::new()).await.unwrap();
    assert!(third != first && third != second);
}

#[tokio::test]
async fn keys_are_read_and_deleted_by_room_and_session() {
    let (backup, version) = backup().await;
    backup.put_keys(alice(), &version, &key(true, 0, 0, "k")).await.unwrap();
    assert_eq!(backup.get_keys(alice(), &version, BackupSelection::All).unwrap().len(), 1);
    assert!(backup.get_keys(alice(), &version, BackupSelection::Room("!other:ours.example")).unwrap().is_empty());
    let missing =
        backup.get_keys(alice(), &version, BackupSelection::Session { room: "!room:ours.example", session: "none" });
    assert!(matches!(missing, Err(BackupError::UnknownKey)));
    let state = backup.delete_keys(alice(), &version, BackupSelection::Room("!room:ours.example")).await.unwrap();
    assert_eq!(state.count, 0);
    assert!(backup.get_keys(alice(), &version, BackupSelection::All).unwrap().is_empty());
}

#[tokio::test]
async fn a_malformed_key_is_refused_with_the_whole_upload() {
    let (backup, version) = backup().await;
    let mut rooms = key(true, 0, 0, "k");
    rooms
        .entry("!room:ours.example".to_owned())
        .or_default()
        .insert("bad".to_owned(), object(json!({ "is_verified": 1 })));
    assert!(
        matches!(backup.put_keys(alice(), &version, &rooms).await, Err(BackupError::BadKey { session }) if session == "bad")
    );
    assert_eq!(backup.get_version(alice(), &version).unwrap().count, 0);
}

#[tokio::test]
async fn the_algorithm_of_a_version_cannot_change() {
    let (backup, version) = backup().await;
    let refused = backup.update_version(alice(), &version, "other", &JsonObject::new()).await;
    assert!(matches!(refused, Err(BackupError::AlgorithmChanged)));
    backup.update_version(alice(), &version, ALGORITHM, &object(json!({ "public_key": "new" }))).await.unwrap();
    assert_eq!(backup.get_current_version(alice()).unwrap().auth_data["public_key"], "new");
}

#[tokio::test]
async fn a_user_without_a_backup_has_no_version() {
    let backup = KeyBackup::new(Store::in_memory());
    assert!(matches!(backup.get_current_version(alice()), Err(BackupError::UnknownVersion)));
}
