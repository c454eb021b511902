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
