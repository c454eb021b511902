use http::{Method, StatusCode};
use serde_json::{Value as JsonValue, json};

use crate::test_app::TestApp;

#[tokio::test]
async fn thread_is_subscribed_to_and_unsubscribed_from() {
    let app = TestApp::new();
    let (alice, stranger) = (app.register("alice").await, app.register("stranger").await);
    let room = app.post("/_matrix/client/v3/createRoom", Some(&alice), json!({})).await.1;
    let room = room["room_id"].as_str().unwrap();
    let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    let root = app.put(&send, Some(&alice), json!({ "msgtype": "m.text", "body": "root" })).await.1;
    let root = root["event_id"].as_str().unwrap();
    let path = format!("/_matrix/client/unstable/io.element.msc4306/rooms/{room}/thread/{root}/subscription");
    let missing = format!("/_matrix/client/unstable/io.element.msc4306/rooms/{room}/thread/$nothing/subscription");
    let list = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions";

    for (path, token, body, expected) in [
        (&path, None, json!({}), (StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN")),
        (&path, Some(&stranger), json!({}), (StatusCode::NOT_FOUND, "M_NOT_FOUND")),
        (&missing, Some(&alice), json!({}), (StatusCode::NOT_FOUND, "M_NOT_FOUND")),
        (&path, Some(&alice), json!({ "automatic": 1 }), (StatusCode::BAD_REQUEST, "M_BAD_JSON")),
        (
            &path,
            Some(&alice),
            json!({ "automatic": root }),
            (StatusCode::BAD_REQUEST, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"),
        ),
    ] {
        let (status, answer) = app.put(path, token.map(String::as_str), body).await;
        assert_eq!((status, answer["errcode"].as_str().unwrap()), expected);
    }
    assert_eq!(app.get(&path, Some(&alice)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(app.put(&path, Some(&alice), json!({})).await.0, StatusCode::OK);
    assert_eq!(app.get(&path, Some(&alice)).await, (StatusCode::OK, json!({ "automatic": false })));
    let (status, changes) = app.get(&format!("{list}?dir=b"), Some(&alice)).await;
    assert_eq!((status, &changes["subscribed"][room][root]["automatic"]), (StatusCode::OK, &json!(false)), "{changes}");
    assert!(changes.get("end").is_none());

    assert_eq!(app.call(Method::DELETE, &path, Some(&alice), JsonValue::Null).await.0, StatusCode::OK);
    assert_eq!(app.get(&path, Some(&alice)).await.0, StatusCode::NOT_FOUND);
    let (_, changes) = app.get(&format!("{list}?dir=b"), Some(&alice)).await;
    assert!(changes.get("subscribed").is_none() && changes["unsubscribed"][room][root]["bump_stamp"].is_u64());
    assert_eq!(app.get(&format!("{list}?dir=b&from=x"), Some(&alice)).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(app.get(&format!("{list}?dir=b"), None).await.0, StatusCode::UNAUTHORIZED);
}
