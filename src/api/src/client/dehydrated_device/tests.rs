use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::test_app::TestApp;

const DEVICE: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

fn upload(user: &str, device: &str) -> Value {
    json!({
        "device_id": device,
        "device_data": { "algorithm": "org.matrix.msc3814.v2", "device_pickle": "pickle", "nonce": "nonce" },
        "device_keys": {
            "user_id": user, "device_id": device, "algorithms": [], "keys": {}, "signatures": {}, "dehydrated": true
        },
        "one_time_keys": { "signed_curve25519:A": { "key": "a" } },
    })
}

#[tokio::test]
async fn dehydrated_device_is_kept_receives_messages_and_is_deleted() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    assert_eq!(server.get(DEVICE, Some(&alice)).await.1["errcode"], "M_NOT_FOUND");
    let (status, answer) = server.put(DEVICE, Some(&alice), upload("@alice:chappe.example", "DRY")).await;
    assert_eq!((status, &answer["device_id"]), (StatusCode::OK, &"DRY".into()), "{answer}");
    let (_, answer) = server.get(DEVICE, Some(&alice)).await;
    assert_eq!((&answer["device_id"], &answer["device_data"]["device_pickle"]), (&"DRY".into(), &"pickle".into()));

    let query = json!({ "device_keys": { "@alice:chappe.example": [] } });
    let (_, keys) = server.post("/_matrix/client/v3/keys/query", Some(&bob), query).await;
    assert_eq!(keys["device_keys"]["@alice:chappe.example"]["DRY"]["dehydrated"], true);
    for n in 0..2 {
        let messages = json!({ "messages": { "@alice:chappe.example": { "DRY": { "n": n } } } });
        let path = format!("/_matrix/client/v3/sendToDevice/m.room.encrypted/{n}");
        assert_eq!(server.put(&path, Some(&bob), messages).await.0, StatusCode::OK);
    }
    let events = format!("{DEVICE}/DRY/events");
    let (status, first) = server.post(&events, Some(&alice), json!({})).await;
    assert_eq!((status, &first["events"][1]["content"]["n"]), (StatusCode::OK, &1.into()), "{first}");
    let (_, rest) = server.post(&events, Some(&alice), json!({ "next_batch": first["next_batch"] })).await;
    assert_eq!(rest["events"], json!([]));

    let (status, answer) = server.call(Method::DELETE, DEVICE, Some(&alice), Value::Null).await;
    assert_eq!((status, &answer["device_id"]), (StatusCode::OK, &"DRY".into()));
    assert_eq!(server.get(DEVICE, Some(&alice)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.post(&events, Some(&alice), json!({})).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn others_devices_and_malformed_uploads_are_refused() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    assert_eq!(server.get(DEVICE, None).await.1["errcode"], "M_MISSING_TOKEN");
    let (status, _) = server.put(DEVICE, Some(&alice), upload("@bob:chappe.example", "DRY")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "keys of somebody else");
    assert_eq!(server.put(DEVICE, Some(&alice), json!({ "device_id": "DRY" })).await.1["errcode"], "M_BAD_JSON");
    server.put(DEVICE, Some(&alice), upload("@alice:chappe.example", "DRY")).await;
    assert_eq!(server.post(&format!("{DEVICE}/DRY/events"), Some(&bob), json!({})).await.0, StatusCode::NOT_FOUND);
    let bad = json!({ "next_batch": "s1" });
    assert_eq!(server.post(&format!("{DEVICE}/DRY/events"), Some(&alice), bad).await.1["errcode"], "M_INVALID_PARAM");
}
