use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::test_app::TestApp;

const EVENTS: &str = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";

async fn room(server: &TestApp, token: &str) -> String {
    let (_, answer) = server.post("/_matrix/client/v3/createRoom", Some(token), json!({})).await;
    answer["room_id"].as_str().unwrap().to_owned()
}

async fn schedule_state(server: &TestApp, token: &str, room: &str, key: &str, delay: &str) -> (StatusCode, Value) {
    let path =
        format!("/_matrix/client/v3/rooms/{room}/state/org.example.state/{key}?org.matrix.msc4140.delay={delay}");
    server.put(&path, Some(token), json!({ "a": 1 })).await
}

#[tokio::test]
async fn delayed_state_is_listed_and_sent_on_request_by_whoever_knows_its_id() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let room = room(&server, &token).await;
    let (status, answer) = schedule_state(&server, &token, &room, "key", "5000").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let id = answer["delay_id"].as_str().unwrap();
    let (_, list) = server.get(EVENTS, Some(&token)).await;
    let listed = &list["delayed_events"][0];
    assert_eq!((&listed["delay_id"], &listed["delay"]), (&id.into(), &5000.into()));
    assert_eq!((&listed["type"], &listed["state_key"]), (&"org.example.state".into(), &"key".into()));
    assert_eq!((&listed["content"], &listed["room_id"]), (&json!({ "a": 1 }), &room.as_str().into()));

    let state = format!("/_matrix/client/v3/rooms/{room}/state/org.example.state/key");
    assert_eq!(server.get(&state, Some(&token)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.post(&format!("{EVENTS}/{id}/send"), None, json!({})).await.0, StatusCode::OK);
    assert_eq!(server.get(&state, Some(&token)).await, (StatusCode::OK, json!({ "a": 1 })));
    assert_eq!(server.get(EVENTS, Some(&token)).await.1, json!({ "delayed_events": [] }));
    let (_, ended) = server.get(&format!("{EVENTS}/{id}"), Some(&token)).await;
    assert!(ended["event_id"].is_string() && ended["finalised_ts"].is_number(), "{ended}");
}

#[tokio::test]
async fn delayed_message_is_scheduled_once_for_a_transaction_even_without_its_body() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let room = room(&server, &token).await;
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/txn?org.matrix.msc4140.delay=1000");
    let (status, first) = server.put(&path, Some(&token), json!({ "body": "later" })).await;
    assert_eq!(status, StatusCode::OK, "{first}");
    assert_eq!(server.put(&path, Some(&token), Value::Null).await, (StatusCode::OK, first.clone()));
    let newer = format!("/_matrix/client/unstable/org.matrix.msc4140/rooms/{room}/delayed_event/m.room.message/txn");
    let body = json!({ "delay": 1000, "content": { "body": "later" } });
    assert_eq!(server.put(&newer, Some(&token), body).await, (StatusCode::OK, first));
}

#[tokio::test]
async fn events_are_cancelled_and_restarted_by_both_forms_of_the_endpoint() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let room = room(&server, &token).await;
    let (_, answer) = schedule_state(&server, &token, &room, "key", "1000").await;
    let one = format!("{EVENTS}/{}", answer["delay_id"].as_str().unwrap());
    assert_eq!(server.post(&format!("{one}/restart"), None, json!({})).await.0, StatusCode::OK);
    assert_eq!(server.post(&one, None, json!({ "action": "cancel" })).await.0, StatusCode::OK);
    assert_eq!(server.post(&format!("{one}/send"), None, json!({})).await.0, StatusCode::CONFLICT);
    assert_eq!(server.get(EVENTS, Some(&token)).await.1, json!({ "delayed_events": [] }));
}

#[tokio::test]
async fn strangers_and_malformed_requests_are_refused() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = room(&server, &token).await;
    let (_, answer) = schedule_state(&server, &token, &room, "key", "1000").await;
    let one = format!("{EVENTS}/{}", answer["delay_id"].as_str().unwrap());
    assert_eq!(server.get(EVENTS, None).await.1["errcode"], "M_MISSING_TOKEN");
    assert_eq!(server.get(&one, Some(&bob)).await.1["errcode"], "M_NOT_FOUND");
    assert_eq!(server.get(EVENTS, Some(&bob)).await.1, json!({ "delayed_events": [] }));
    assert_eq!(schedule_state(&server, &bob, &room, "key", "1").await.1["errcode"], "M_FORBIDDEN");
    assert_eq!(schedule_state(&server, &token, &room, "key", "-1").await.1["errcode"], "M_INVALID_PARAM");
    let (status, answer) = schedule_state(&server, &token, &room, "key", "99999999999").await;
    assert_eq!(
        (status, &answer["org.matrix.msc4140.errcode"]),
        (StatusCode::BAD_REQUEST, &"M_MAX_DELAY_EXCEEDED".into())
    );
    assert_eq!(server.post(&format!("{EVENTS}/unknown/cancel"), None, json!({})).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.post(&format!("{one}/oops"), None, json!({})).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.call(Method::POST, &one, None, json!({})).await.0, StatusCode::BAD_REQUEST);
}
