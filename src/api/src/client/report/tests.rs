use http::StatusCode;
use serde_json::{Value as JsonValue, json};

use crate::test_app::TestApp;

fn refusal((status, body): &(StatusCode, JsonValue)) -> (u16, &str) {
    (status.as_u16(), body["errcode"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn events_are_reported_by_those_who_see_them() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.post("/_matrix/client/v3/createRoom", Some(&alice), json!({})).await.1;
    let room = room["room_id"].as_str().unwrap();
    let at = |rest: &str| format!("/_matrix/client/v3/rooms/{room}/{rest}");
    let said = server.put(&at("send/m.room.message/1"), Some(&alice), json!({ "body": "rude" })).await.1;
    let path = at(&format!("report/{}", said["event_id"].as_str().unwrap()));
    let body = json!({ "reason": "it is rude" });
    assert_eq!(server.post(&path, Some(&alice), body.clone()).await, (StatusCode::OK, json!({})));
    let refused = (404, "M_NOT_FOUND");
    assert_eq!(refusal(&server.post(&path, Some(&bob), body.clone()).await), refused);
    assert_eq!(refusal(&server.post(&at("report/$unknown"), Some(&alice), body.clone()).await), refused);
    assert_eq!(refusal(&server.post(&path, None, body).await), (401, "M_MISSING_TOKEN"));
    assert_eq!(refusal(&server.post(&path, Some(&alice), json!({ "reason": 1 })).await), (400, "M_BAD_JSON"));
    let listed = server.app.reports.list().unwrap();
    assert_eq!((listed.len(), listed[0].reason.as_str()), (1, "it is rude"));
}

#[tokio::test]
async fn rooms_and_users_are_reported_whether_they_exist_or_not() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    for path in [
        "/_matrix/client/v3/rooms/!unknown:chappe.example/report",
        "/_matrix/client/v3/users/@nobody:chappe.example/report",
        "/_matrix/client/v3/users/@alice:chappe.example/report",
        "/_matrix/client/v3/users/@eve:elsewhere.example/report",
    ] {
        let body = json!({ "reason": "spam" });
        assert_eq!(server.post(path, Some(&alice), body.clone()).await, (StatusCode::OK, json!({})), "{path}");
        assert_eq!(refusal(&server.post(path, None, body).await), (401, "M_MISSING_TOKEN"), "{path}");
        assert_eq!(
            refusal(&server.post(path, Some(&alice), json!({ "reason": 1 })).await),
            (400, "M_BAD_JSON"),
            "{path}"
        );
        let long = json!({ "reason": "x".repeat(5_000) });
        assert_eq!(refusal(&server.post(path, Some(&alice), long).await), (400, "M_INVALID_PARAM"), "{path}");
    }
    let reported: Vec<_> = server.app.reports.list().unwrap().into_iter().filter_map(|report| report.user_id).collect();
    assert_eq!(reported, ["@alice:chappe.example", "@eve:elsewhere.example"], "what is not there is not kept");
}
