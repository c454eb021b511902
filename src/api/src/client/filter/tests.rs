use http::StatusCode;
use serde_json::json;

use crate::test_app::TestApp;

const FILTER: &str = "/_matrix/client/v3/user/@alice:chappe.example/filter";

#[tokio::test]
async fn stored_filter_is_read_back() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let filter = json!({ "room": { "timeline": { "limit": 10 } } });
    let (status, answer) = server.post(FILTER, Some(&token), filter.clone()).await;
    assert_eq!(status, StatusCode::OK);
    let path = format!("{FILTER}/{}", answer["filter_id"].as_str().unwrap());
    assert_eq!(server.get(&path, Some(&token)).await, (StatusCode::OK, filter));
    assert_eq!(server.get(&format!("{FILTER}/none"), Some(&token)).await.1["errcode"], "M_NOT_FOUND");
}

#[tokio::test]
async fn malformed_filters_and_strangers_are_refused() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let bob = server.register("bob").await;
    let (status, answer) = server.post(FILTER, Some(&token), json!({ "presence": "not_an_object" })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &"M_BAD_JSON".into()));
    assert_eq!(server.post(FILTER, Some(&bob), json!({})).await.1["errcode"], "M_FORBIDDEN");
    assert_eq!(server.post(FILTER, None, json!({})).await.1["errcode"], "M_MISSING_TOKEN");
}
