use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::test_app::TestApp;

const ROOM_KEYS: &str = "/_matrix/client/v3/room_keys";

fn version() -> Value {
    json!({
        "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
        "auth_data": { "public_key": "abcdefg", "signatures": {}, "something": "else" },
    })
}

fn key(first_message_index: u32) -> Value {
    json!({
        "first_message_index": first_message_index,
        "forwarded_count": 0,
        "is_verified": false,
        "session_data": { "ephemeral": "YQ", "ciphertext": "Yg", "mac": "Yw" },
    })
}

#[tokio::test]
async fn keys_are_backed_up_restored_and_deleted() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let alice = Some(alice.as_str());
    let answer = server.post(&format!("{ROOM_KEYS}/version"), alice, version()).await.1;
    let current = answer["version"].as_str().unwrap().to_owned();
    let session = format!("{ROOM_KEYS}/keys/!room:chappe.example/session?version={current}");
    let (status, answer) = server.put(&session, alice, key(3)).await;
    assert_eq!((status, &answer["count"]), (StatusCode::OK, &json!(1)), "{answer}");
    assert_eq!(server.get(&session, alice).await, (StatusCode::OK, key(3)));

    let all = format!("{ROOM_KEYS}/keys?version={current}");
    let more = json!({ "rooms": { "!room:chappe.example": { "sessions": { "session": key(9), "other": key(1) } } } });
    assert_eq!(server.put(&all, alice, more).await.1["count"], 2);
    let room = format!("{ROOM_KEYS}/keys/!room:chappe.example?version={current}");
    assert_eq!(server.get(&room, alice).await.1, json!({ "sessions": { "session": key(3), "other": key(1) } }));
    assert_eq!(server.get(&all, alice).await.1["rooms"]["!room:chappe.example"]["sessions"]["other"], key(1));

    let info = server.get(&format!("{ROOM_KEYS}/version"), alice).await.1;
    assert_eq!(
        (&info["auth_data"], &info["count"], &info["version"]),
        (&version()["auth_data"], &json!(2), &json!(current))
    );
    assert_eq!(server.call(Method::DELETE, &session, alice, json!(null)).await.1["count"], 1);
    assert_eq!(server.get(&session, alice).await.1["errcode"], "M_NOT_FOUND");
    assert_eq!(server.call(Method::DELETE, &all, alice, json!(null)).await.1["count"], 0);
    assert_eq!(server.get(&all, alice).await.1, json!({ "rooms": {} }));
}

#[tokio::test]
async fn keys_for_an_old_version_are_refused_with_the_current_one() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let alice = Some(alice.as_str());
    let create = format!("{ROOM_KEYS}/version");
    let first = server.post(&create, alice, version()).await.1["version"].as_str().unwrap().to_owned();
    let second = server.post(&create, alice, version()).await.1["version"].clone();
    let (status, answer) =
        server.put(&format!("{ROOM_KEYS}/keys?version={first}"), alice, json!({ "rooms": {} })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &json!("M_WRONG_ROOM_KEYS_VERSION")));
    assert_eq!(answer["current_version"], second);

    let first = format!("{ROOM_KEYS}/version/{first}");
    let mut changed = version();
    changed["auth_data"]["public_key"] = json!("new");
    changed["version"] = json!("99");
    assert_eq!(server.put(&first, alice, changed.clone()).await.1["errcode"], "M_INVALID_PARAM");
    changed.as_object_mut().unwrap().remove("version");
    assert_eq!(server.put(&first, alice, changed).await, (StatusCode::OK, json!({})));
    assert_eq!(server.get(&first, alice).await.1["auth_data"]["public_key"], "new");
    assert_eq!(server.call(Method::DELETE, &first, alice, json!(null)).await, (StatusCode::OK, json!({})));
    assert_eq!(server.get(&first, alice).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.call(Method::DELETE, &first, alice, json!(null)).await.1["errcode"], "M_NOT_FOUND");
}

#[tokio::test]
async fn malformed_backups_and_strangers_are_refused() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    assert_eq!(server.get(&format!("{ROOM_KEYS}/version"), None).await.1["errcode"], "M_MISSING_TOKEN");
    let alice = Some(alice.as_str());
    assert_eq!(server.get(&format!("{ROOM_KEYS}/version"), alice).await.1["errcode"], "M_NOT_FOUND");
    assert_eq!(
        server.post(&format!("{ROOM_KEYS}/version"), alice, json!({ "algorithm": 1 })).await.1["errcode"],
        "M_BAD_JSON"
    );
    server.post(&format!("{ROOM_KEYS}/version"), alice, version()).await;
    let session = format!("{ROOM_KEYS}/keys/!room:chappe.example/session?version=1");
    assert_eq!(server.put(&session, alice, json!({ "is_verified": "x" })).await.1["errcode"], "M_BAD_JSON");
    assert_eq!(server.get(&format!("{ROOM_KEYS}/keys"), alice).await.0, StatusCode::BAD_REQUEST);
}
