use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::test_app::TestApp;

const TAGS: &str = "/_matrix/client/v3/user/@alice:chappe.example/rooms/!room:chappe.example/tags";

#[tokio::test]
async fn tags_are_set_listed_and_deleted() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    assert_eq!(server.get(TAGS, Some(&token)).await, (StatusCode::OK, json!({ "tags": {} })));
    let favourite = format!("{TAGS}/m.favourite");
    assert_eq!(server.put(&favourite, Some(&token), json!({ "order": 0.25 })).await, (StatusCode::OK, json!({})));
    let expected = json!({ "tags": { "m.favourite": { "order": 0.25 } } });
    assert_eq!(server.get(TAGS, Some(&token)).await.1, expected);
    let data = "/_matrix/client/v3/user/@alice:chappe.example/rooms/!room:chappe.example/account_data/m.tag";
    assert_eq!(server.get(data, Some(&token)).await.1, expected);
    assert_eq!(server.call(Method::DELETE, &favourite, Some(&token), Value::Null).await.0, StatusCode::OK);
    assert_eq!(server.get(TAGS, Some(&token)).await.1, json!({ "tags": {} }));
}

#[tokio::test]
async fn tags_of_others_and_malformed_ones_are_refused() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let bob = server.register("bob").await;
    let tag = format!("{TAGS}/u.work");
    assert_eq!(server.get(TAGS, None).await.1["errcode"], "M_MISSING_TOKEN");
    assert_eq!(server.get(TAGS, Some(&bob)).await.1["errcode"], "M_FORBIDDEN");
    assert_eq!(server.put(&tag, Some(&bob), json!({})).await.1["errcode"], "M_FORBIDDEN");
    assert_eq!(server.call(Method::DELETE, &tag, Some(&bob), Value::Null).await.1["errcode"], "M_FORBIDDEN");
    assert_eq!(server.put(&tag, Some(&token), json!({ "order": [] })).await.1["errcode"], "M_BAD_JSON");
    let long = format!("{TAGS}/{}", "u".repeat(300));
    assert_eq!(server.put(&long, Some(&token), json!({})).await.1["errcode"], "M_INVALID_PARAM");
}
