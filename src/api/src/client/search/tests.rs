use chappe_services::event_follower::EventFollower;
use http::StatusCode;
use serde_json::{Value as JsonValue, json};

use crate::test_app::TestApp;

const SEARCH: &str = "/_matrix/client/v3/search";
const USERS: &str = "/_matrix/client/v3/user_directory/search";

/// A server whose searches are kept in step.
async fn server() -> TestApp {
    let server = TestApp::new();
    tokio::spawn(server.app.search.clone().run());
    let follower = EventFollower::open_from_start("user_directory", &server.app.rooms).unwrap();
    tokio::spawn(follower.run((*server.app.user_directory).clone().follow()));
    server
}

async fn room_of(server: &TestApp, token: &str) -> String {
    let room = server.post("/_matrix/client/v3/createRoom", Some(token), json!({ "preset": "public_chat" })).await.1;
    room["room_id"].as_str().unwrap().to_owned()
}

async fn say(server: &TestApp, token: &str, room: &str, body: &str) -> String {
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{}", body.replace(' ', "-"));
    let content = json!({ "msgtype": "m.text", "body": body });
    let (status, answer) = server.put(&path, Some(token), content).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["event_id"].as_str().unwrap().to_owned()
}

fn criteria(criteria: JsonValue) -> JsonValue {
    json!({ "search_categories": { "room_events": criteria } })
}

fn refusal((status, body): &(StatusCode, JsonValue)) -> (u16, &str) {
    (status.as_u16(), body["errcode"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn search_answers_with_everything_that_is_asked_for() {
    let server = server().await;
    let alice = server.register("alice").await;
    let room = room_of(&server, &alice).await;
    let (before, found, after) = (
        say(&server, &alice, &room, "the one before").await,
        say(&server, &alice, &room, "Les élections").await,
        say(&server, &alice, &room, "the one after").await,
    );
    let request = criteria(json!({
        "search_term": "elections",
        "keys": ["content.body"],
        "order_by": "recent",
        "event_context": { "before_limit": 1, "after_limit": 1, "include_profile": true },
        "include_state": true,
        "groupings": { "group_by": [{ "key": "room_id" }] },
    }));
    let (status, answer) = server.post(SEARCH, Some(&alice), request).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let events = &answer["search_categories"]["room_events"];
    let result = &events["results"][0];
    assert_eq!((&events["count"], &events["highlights"]), (&json!(1), &json!(["élections"])));
    assert_eq!((&result["result"]["event_id"], &result["result"]["room_id"]), (&json!(found), &json!(room)));
    assert_eq!(result["context"]["events_before"][0]["event_id"], json!(before));
    assert_eq!(result["context"]["events_after"][0]["event_id"], json!(after));
    assert!(result["context"]["profile_info"]["@alice:chappe.example"].is_object());
    assert_eq!(events["groups"]["room_id"][&room]["results"], json!([found]));
    assert!(events["state"][&room].as_array().unwrap().iter().any(|event| event["type"] == "m.room.create"));
    assert!(events["next_batch"].is_null());

    let nothing = server.post(SEARCH, Some(&alice), criteria(json!({ "search_term": "nowhere" }))).await.1;
    assert_eq!(nothing["search_categories"]["room_events"]["results"], json!([]));
    let plain = server.post(SEARCH, Some(&alice), criteria(json!({ "search_term": "elections" }))).await.1;
    assert!(plain["search_categories"]["room_events"]["results"][0]["context"].is_null());
    let empty = server.post(SEARCH, Some(&alice), json!({ "search_categories": {} })).await;
    assert_eq!(empty, (StatusCode::OK, json!({ "search_categories": {} })));
}

#[tokio::test]
async fn search_pages_by_its_token() {
    let server = server().await;
    let alice = server.register("alice").await;
    let room = room_of(&server, &alice).await;
    let (one, two) = (say(&server, &alice, &room, "word one").await, say(&server, &alice, &room, "word two").await);
    let request = criteria(json!({ "search_term": "word", "order_by": "recent", "filter": { "limit": 1 } }));
    let mut path = SEARCH.to_owned();
    let mut found = Vec::new();
    loop {
        let answer = server.post(&path, Some(&alice), request.clone()).await.1;
        let events = &answer["search_categories"]["room_events"];
        assert_eq!(events["count"], 2);
        found.extend(events["results"][0]["result"]["event_id"].as_str().map(str::to_owned));
        let Some(next) = events["next_batch"].as_str() else { break };
        path = format!("{SEARCH}?next_batch={next}");
    }
    assert_eq!(found, [two, one]);
}

#[tokio::test]
async fn search_is_refused_without_token_and_for_nonsense() {
    let server = server().await;
    let alice = server.register("alice").await;
    let request = criteria(json!({ "search_term": "x" }));
    assert_eq!(refusal(&server.post(SEARCH, None, request.clone()).await), (401, "M_MISSING_TOKEN"));
    for (body, expected) in [
        (json!({}), "M_BAD_JSON"),
        (criteria(json!({})), "M_BAD_JSON"),
        (criteria(json!({ "search_term": "x", "keys": ["content.secret"] })), "M_INVALID_PARAM"),
        (criteria(json!({ "search_term": "x", "order_by": "random" })), "M_INVALID_PARAM"),
        (criteria(json!({ "search_term": "x", "groupings": { "group_by": [{ "key": "moon" }] } })), "M_INVALID_PARAM"),
    ] {
        assert_eq!(refusal(&server.post(SEARCH, Some(&alice), body.clone()).await), (400, expected), "{body}");
    }
    let path = format!("{SEARCH}?next_batch=nonsense");
    assert_eq!(refusal(&server.post(&path, Some(&alice), request).await), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn users_are_found_as_their_profiles_call_them() {
    let server = server().await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let profile = "/_matrix/client/v3/profile/@alice:chappe.example/displayname";
    server.put(profile, Some(&alice), json!({ "displayname": "Alice Liddell" })).await;
    assert_eq!(server.post(USERS, Some(&bob), json!({ "search_term": "liddell" })).await.1["results"], json!([]));
    room_of(&server, &alice).await;
    let (status, answer) = server.post(USERS, Some(&bob), json!({ "search_term": "LIDD", "limit": 5 })).await;
    let expected = json!({
        "results": [{ "user_id": "@alice:chappe.example", "display_name": "Alice Liddell" }],
        "limited": false,
    });
    assert_eq!((status, answer), (StatusCode::OK, expected));
    let deactivate = json!({
        "auth": {
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": "secret",
        },
    });
    let gone = server.post("/_matrix/client/v3/account/deactivate", Some(&alice), deactivate).await;
    assert_eq!(gone.0, StatusCode::OK, "{}", gone.1);
    assert_eq!(server.post(USERS, Some(&bob), json!({ "search_term": "liddell" })).await.1["results"], json!([]));
}

#[tokio::test]
async fn user_search_is_refused_without_token_and_for_nonsense() {
    let server = server().await;
    let alice = server.register("alice").await;
    assert_eq!(refusal(&server.post(USERS, None, json!({ "search_term": "x" })).await), (401, "M_MISSING_TOKEN"));
    assert_eq!(refusal(&server.post(USERS, Some(&alice), json!({})).await), (400, "M_BAD_JSON"));
    assert_eq!(refusal(&server.post(USERS, Some(&alice), json!({ "search_term": 1 })).await), (400, "M_BAD_JSON"));
}
