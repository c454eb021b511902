use http::{Method, StatusCode};
use serde_json::{Value as JsonValue, json};

use crate::test_app::TestApp;

#[tokio::test]
async fn requests_about_rooms_that_no_server_signed_are_refused() {
    let server = TestApp::new();
    for (method, path, body) in [
        (Method::POST, "unstable/event_relationships", json!({ "event_id": "$e" })),
        (Method::GET, "v1/hierarchy/!r:chappe.example", JsonValue::Null),
        (Method::GET, "v1/timestamp_to_event/!r:chappe.example?ts=1&dir=f", JsonValue::Null),
        (Method::GET, "v1/publicRooms", JsonValue::Null),
        (Method::POST, "v1/publicRooms", json!({})),
        (Method::PUT, "v1/exchange_third_party_invite/!r:chappe.example", json!({})),
    ] {
        let (status, answer) = server.call(method, &format!("/_matrix/federation/{path}"), None, body).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_UNAUTHORIZED")), "{path}");
    }
}

#[tokio::test]
async fn identity_servers_are_heard_about_users_that_exist() {
    let server = TestApp::new();
    server.register("bob").await;
    let path = "/_matrix/federation/v1/3pid/onbind";
    let bound = |mxid: &str, invites: JsonValue| json!({ "medium": "email", "address": "b@b.example", "mxid": mxid, "invites": invites });
    let invite = json!({
        "medium": "email", "address": "b@b.example", "mxid": "@bob:chappe.example", "room_id": "!r:elsewhere.example",
        "sender": "@a:elsewhere.example",
        "signed": { "mxid": "@bob:chappe.example", "token": "t", "signatures": { "id.example": {} } },
    });
    let put = async |body: JsonValue| server.put(path, None, body).await;
    // That an invite is of no use is no business of the identity server's.
    assert_eq!(put(bound("@bob:chappe.example", json!([]))).await.0, StatusCode::OK);
    assert_eq!(put(bound("@nobody:chappe.example", json!([invite]))).await.0, StatusCode::NOT_FOUND);
    assert_eq!(put(bound("@bob:elsewhere.example", json!([]))).await.0, StatusCode::NOT_FOUND);
    assert_eq!(put(json!({ "medium": "email" })).await.0, StatusCode::BAD_REQUEST);
}
