use http::StatusCode;
use serde_json::json;

use crate::test_app::TestApp;

#[tokio::test]
async fn versions_are_public() {
    let (status, answer) = TestApp::new().get("/_matrix/client/versions", None).await;
    assert_eq!(status, StatusCode::OK);
    assert!(answer["versions"].as_array().unwrap().contains(&json!("v1.19")));
    assert!(answer["unstable_features"].as_object().unwrap().values().all(|value| value.is_boolean()));
}

#[tokio::test]
async fn capabilities_are_for_users_and_say_everything() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let path = "/_matrix/client/v3/capabilities";
    assert_eq!(server.get(path, None).await.1["errcode"], "M_MISSING_TOKEN");
    let (_, answer) = server.get(path, Some(&token)).await;
    let capabilities = &answer["capabilities"];
    assert_eq!(
        capabilities["m.room_versions"],
        json!({ "default": "12", "available": { "11": "stable", "12": "stable" } })
    );
    assert_eq!(capabilities["m.change_password"], json!({ "enabled": true }));
    assert_eq!(capabilities["m.3pid_changes"], json!({ "enabled": false }));
}

#[tokio::test]
async fn well_known_documents_say_what_is_configured_and_no_more() {
    let server = TestApp::new();
    let (status, answer) = server.get("/.well-known/matrix/client", None).await;
    assert_eq!(
        (status, answer),
        (StatusCode::OK, json!({ "m.homeserver": { "base_url": "https://matrix.chappe.example" } }))
    );
    for absent in ["server", "support"] {
        assert_eq!(server.get(&format!("/.well-known/matrix/{absent}"), None).await.0, StatusCode::NOT_FOUND);
    }
}
