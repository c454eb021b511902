use http::{Method, StatusCode};
use serde_json::json;

use crate::test_app::TestApp;

const DEVICES: &str = "/_matrix/client/v3/devices";

fn auth(user: &str, password: &str) -> serde_json::Value {
    json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password })
}

async fn log_in(server: &TestApp, device_id: &str) -> String {
    let mut login = auth("alice", "secret");
    login["device_id"] = device_id.into();
    login["initial_device_display_name"] = "device display".into();
    let (status, answer) = server.post("/_matrix/client/v3/login", None, login).await;
    assert_eq!(status, StatusCode::OK);
    answer["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn devices_are_listed_read_and_renamed() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    log_in(&server, "PHONE").await;
    let phone = format!("{DEVICES}/PHONE");
    let (status, answer) = server.get(&phone, Some(&token)).await;
    assert_eq!((status, &answer["display_name"]), (StatusCode::OK, &"device display".into()));
    assert_eq!(server.put(&phone, Some(&token), json!({ "display_name": "new" })).await.0, StatusCode::OK);
    assert_eq!(server.get(&phone, Some(&token)).await.1["display_name"], "new");
    assert_eq!(server.get(DEVICES, Some(&token)).await.1["devices"].as_array().unwrap().len(), 2);
    assert_eq!(server.get(DEVICES, None).await.1["errcode"], "M_MISSING_TOKEN");
    for (method, body) in
        [(Method::GET, json!(null)), (Method::PUT, json!({ "display_name": "x" })), (Method::PUT, json!({}))]
    {
        let (status, answer) = server.call(method, &format!("{DEVICES}/NONE"), Some(&token), body).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &"M_NOT_FOUND".into()));
    }
}

#[tokio::test]
async fn deleting_a_device_takes_its_own_users_password() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    server.register("bob").await;
    let phone_token = log_in(&server, "PHONE").await;
    let phone = format!("{DEVICES}/PHONE");
    let delete = |body| server.call(Method::DELETE, &phone, Some(&token), body);

    let (status, answer) = delete(json!(null)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(answer["session"].is_string() && answer["flows"].is_array() && answer["params"].is_object());
    let (status, answer) = delete(json!({ "auth": auth("alice", "wrong") })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &"M_FORBIDDEN".into()));
    assert_eq!(delete(json!({ "auth": auth("bob", "secret") })).await.0, StatusCode::FORBIDDEN);
    assert_eq!(server.get(&phone, Some(&token)).await.0, StatusCode::OK);

    // A session that was begun for another device does not open this one.
    log_in(&server, "TABLET").await;
    let (_, other) = server.call(Method::DELETE, &format!("{DEVICES}/TABLET"), Some(&token), json!({})).await;
    let mut with_session = auth("alice", "secret");
    with_session["session"] = other["session"].clone();
    assert_eq!(delete(json!({ "auth": with_session })).await.0, StatusCode::FORBIDDEN);

    assert_eq!(delete(json!({ "auth": auth("alice", "secret") })).await.0, StatusCode::OK);
    assert_eq!(server.get(&phone, Some(&token)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.get(DEVICES, Some(&phone_token)).await.1["errcode"], "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn several_devices_go_at_once() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    for device_id in ["A", "B", "C"] {
        log_in(&server, device_id).await;
    }
    let request = json!({ "devices": ["A", "B", "NONE", "A"], "auth": auth("alice", "secret") });
    assert_eq!(server.post("/_matrix/client/v3/delete_devices", Some(&token), request).await.0, StatusCode::OK);
    assert_eq!(server.get(DEVICES, Some(&token)).await.1["devices"].as_array().unwrap().len(), 2);
}
