use http::StatusCode;
use serde_json::json;

use crate::test_app::TestApp;

const USER: &str = "/_matrix/client/v3/user/@alice:chappe.example";

#[tokio::test]
async fn global_and_room_data_are_kept_apart() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let global = format!("{USER}/account_data/test.key");
    let room = format!("{USER}/rooms/!room:chappe.example/account_data/test.key");
    assert_eq!(server.get(&global, Some(&token)).await.1["errcode"], "M_NOT_FOUND");
    for value in ["first", "second"] {
        assert_eq!(server.put(&global, Some(&token), json!({ "value": value })).await, (StatusCode::OK, json!({})));
    }
    assert_eq!(server.put(&room, Some(&token), json!({ "value": "room" })).await.0, StatusCode::OK);
    assert_eq!(server.get(&global, Some(&token)).await.1, json!({ "value": "second" }));
    assert_eq!(server.get(&room, Some(&token)).await.1, json!({ "value": "room" }));
}

#[tokio::test]
async fn reserved_types_strangers_and_malformed_bodies_are_refused() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let bob = server.register("bob").await;
    for reserved in ["m.push_rules", "m.fully_read"] {
        let (status, _) = server.put(&format!("{USER}/account_data/{reserved}"), Some(&token), json!({})).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }
    let path = format!("{USER}/account_data/test.key");
    assert_eq!(server.put(&path, None, json!({})).await.1["errcode"], "M_MISSING_TOKEN");
    assert_eq!(server.put(&path, Some(&bob), json!({})).await.1["errcode"], "M_FORBIDDEN");
    assert_eq!(server.get(&path, Some(&bob)).await.1["errcode"], "M_FORBIDDEN");
    assert_eq!(server.put(&path, Some(&token), json!([])).await.1["errcode"], "M_BAD_JSON");
    let broken = http::Request::put(&path).header("authorization", format!("Bearer {token}")).body("{".into()).unwrap();
    assert_eq!(server.send(broken).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn deleted_data_is_not_found() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let bob = server.register("bob").await;
    let unstable = "/_matrix/client/unstable/org.matrix.msc3391/user/@alice:chappe.example";
    for place in ["account_data/test.key", "rooms/!room:chappe.example/account_data/test.key"] {
        let (path, deletion) = (format!("{USER}/{place}"), format!("{unstable}/{place}"));
        server.put(&path, Some(&token), json!({ "a": 1 })).await;
        let delete = |token| server.call(http::Method::DELETE, &deletion, token, serde_json::Value::Null);
        assert_eq!(delete(None).await.1["errcode"], "M_MISSING_TOKEN");
        assert_eq!(delete(Some(&*bob)).await.1["errcode"], "M_FORBIDDEN");
        assert_eq!(delete(Some(&*token)).await, (StatusCode::OK, json!({})));
        assert_eq!(server.get(&path, Some(&token)).await.1["errcode"], "M_NOT_FOUND");
        server.put(&path, Some(&token), json!({ "a": 2 })).await;
        assert_eq!(server.put(&path, Some(&token), json!({})).await.0, StatusCode::OK);
        assert_eq!(server.get(&path, Some(&token)).await.1["errcode"], "M_NOT_FOUND");
    }
    let reserved = format!("{unstable}/account_data/m.push_rules");
    let (status, _) = server.call(http::Method::DELETE, &reserved, Some(&token), serde_json::Value::Null).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn notification_settings_of_a_device_go_with_it() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let login = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "secret",
        "device_id": "SECOND"
    });
    let (_, second) = server.post("/_matrix/client/v3/login", None, login).await;
    let path = format!("{USER}/account_data/org.matrix.msc3890.local_notification_settings.SECOND");
    server.put(&path, Some(&token), json!({ "is_silenced": true })).await;
    server.post("/_matrix/client/v3/logout", second["access_token"].as_str(), json!({})).await;
    assert_eq!(server.get(&path, Some(&token)).await.1["errcode"], "M_NOT_FOUND");
}
