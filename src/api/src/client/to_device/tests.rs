use chappe_store::Position;
use http::StatusCode;
use ruma::user_id;
use serde_json::json;

use crate::test_app::TestApp;

const SEND: &str = "/_matrix/client/v3/sendToDevice/m.test/t1";

#[tokio::test]
async fn a_message_sent_twice_in_one_transaction_arrives_once() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let device =
        server.get("/_matrix/client/v3/account/whoami", Some(&bob)).await.1["device_id"].as_str().unwrap().to_owned();
    let body = json!({ "messages": { "@bob:chappe.example": { "*": { "n": 1 } } } });
    for _ in 0..2 {
        assert_eq!(server.put(SEND, Some(&alice), body.clone()).await, (StatusCode::OK, json!({})));
    }
    let bob = user_id!("@bob:chappe.example");
    let inbox = server.app.to_device.scan(bob, device.as_str().into(), Position::ZERO, Position(1_000), 100).unwrap();
    assert_eq!(inbox.events.len(), 1);
}

#[tokio::test]
async fn malformed_messages_and_strangers_are_refused() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    assert_eq!(server.put(SEND, None, json!({ "messages": {} })).await.1["errcode"], "M_MISSING_TOKEN");
    let (status, answer) = server.put(SEND, Some(&alice), json!({ "messages": { "bob": 1 } })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_BAD_JSON")));
}
