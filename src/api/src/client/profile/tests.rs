use http::{Method, StatusCode};
use serde_json::json;

use crate::test_app::TestApp;

const ALICE: &str = "/_matrix/client/v3/profile/@alice:chappe.example";

#[tokio::test]
async fn fields_are_set_read_and_deleted() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let name = format!("{ALICE}/displayname");
    // Until the user chooses a name, it is that of the account.
    assert_eq!(server.get(&name, None).await, (StatusCode::OK, json!({ "displayname": "alice" })));
    assert_eq!(server.put(&name, Some(&token), json!({ "displayname": "Alice" })).await, (StatusCode::OK, json!({})));
    assert_eq!(
        server.put(&format!("{ALICE}/m.tz"), Some(&token), json!({ "m.tz": "Europe/Paris" })).await.0,
        StatusCode::OK
    );
    assert_eq!(server.get(&name, None).await.1, json!({ "displayname": "Alice" }));
    assert_eq!(server.get(ALICE, None).await.1, json!({ "displayname": "Alice", "m.tz": "Europe/Paris" }));
    assert_eq!(
        server.call(Method::DELETE, &format!("{ALICE}/m.tz"), Some(&token), json!(null)).await.0,
        StatusCode::OK
    );
    let (status, answer) = server.get(&format!("{ALICE}/m.tz"), None).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &"M_NOT_FOUND".into()));
    assert_eq!(server.put(&name, Some(&token), json!({ "displayname": null })).await.0, StatusCode::OK);
    assert_eq!(server.get(ALICE, None).await.1, json!({}));
}

#[tokio::test]
async fn profiles_are_written_by_their_own_users_only() {
    let server = TestApp::new();
    server.register("alice").await;
    let bob = server.register("bob").await;
    let name = format!("{ALICE}/displayname");
    assert_eq!(server.put(&name, None, json!({ "displayname": "x" })).await.1["errcode"], "M_MISSING_TOKEN");
    let (status, answer) = server.put(&name, Some(&bob), json!({ "displayname": "x" })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &"M_FORBIDDEN".into()));
}

#[tokio::test]
async fn malformed_fields_are_refused() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let long = "x".repeat(300);
    let big = "x".repeat(70_000);
    for (field, body, errcode) in [
        ("displayname", json!({ "displayname": 7 }), "M_INVALID_PARAM"),
        ("org.example.a", json!({}), "M_MISSING_PARAM"),
        ("Capital", json!({ "Capital": 1 }), "M_INVALID_PARAM"),
        (long.as_str(), json!({ long.as_str(): 1 }), "M_KEY_TOO_LARGE"),
        ("org.example.big", json!({ "org.example.big": big }), "M_PROFILE_TOO_LARGE"),
    ] {
        let (status, answer) = server.put(&format!("{ALICE}/{field}"), Some(&token), body).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &errcode.into()), "{field}");
    }
    assert_eq!(server.put(&format!("{ALICE}/displayname"), Some(&token), json!([])).await.1["errcode"], "M_BAD_JSON");
}

#[tokio::test]
async fn remote_profiles_are_fetched() {
    let server = TestApp::new();
    let path = |user: &str| format!("/_matrix/client/v3/profile/{user}");
    assert_eq!(server.get(&path("@remote:elsewhere.example"), None).await.1, json!({ "displayname": "Remote" }));
    assert_eq!(server.get(&path("@unknown:elsewhere.example"), None).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.get(&path("@silent:elsewhere.example"), None).await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(server.get(&path("@unknown:chappe.example"), None).await.1["errcode"], "M_NOT_FOUND");
    assert_eq!(server.get(&path("nobody"), None).await.1["errcode"], "M_INVALID_PARAM");
}
