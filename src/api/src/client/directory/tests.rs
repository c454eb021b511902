use http::{Method, StatusCode};
use serde_json::{Value as JsonValue, json};

use crate::test_app::TestApp;

async fn create(server: &TestApp, token: &str, body: JsonValue) -> String {
    let (status, answer) = server.post("/_matrix/client/v3/createRoom", Some(token), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["room_id"].as_str().unwrap().to_owned()
}

fn refusal((status, body): &(StatusCode, JsonValue)) -> (u16, &str) {
    (status.as_u16(), body["errcode"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn alias_is_made_found_and_removed() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = create(&server, &alice, json!({})).await;
    let alias = "/_matrix/client/v3/directory/room/%23lounge:chappe.example";
    let body = json!({ "room_id": room });
    assert_eq!(refusal(&server.get(alias, None).await), (404, "M_NOT_FOUND"));
    assert_eq!(refusal(&server.put(alias, None, body.clone()).await), (401, "M_MISSING_TOKEN"));
    assert_eq!(refusal(&server.put(alias, Some(&bob), body.clone()).await), (403, "M_FORBIDDEN"));
    assert_eq!(refusal(&server.put(alias, Some(&alice), json!({})).await), (400, "M_BAD_JSON"));
    assert_eq!(server.put(alias, Some(&alice), body.clone()).await.0, StatusCode::OK);
    assert_eq!(refusal(&server.put(alias, Some(&alice), body.clone()).await), (409, "M_UNKNOWN"));
    let elsewhere = "/_matrix/client/v3/directory/room/%23lounge:elsewhere.example";
    assert_eq!(refusal(&server.put(elsewhere, Some(&alice), body).await), (400, "M_INVALID_PARAM"));
    assert_eq!(refusal(&server.get(elsewhere, None).await), (401, "M_MISSING_TOKEN"));
    assert_eq!(server.get(alias, None).await.1, json!({ "room_id": room, "servers": ["chappe.example"] }));
    let aliases = server.get(&format!("/_matrix/client/v3/rooms/{room}/aliases"), Some(&alice)).await.1;
    assert_eq!(aliases, json!({ "aliases": ["#lounge:chappe.example"] }));
    assert_eq!(
        refusal(&server.get(&format!("/_matrix/client/v3/rooms/{room}/aliases"), Some(&bob)).await),
        (403, "M_FORBIDDEN")
    );
    assert_eq!(refusal(&server.call(Method::DELETE, alias, Some(&bob), JsonValue::Null).await), (403, "M_FORBIDDEN"));
    assert_eq!(server.call(Method::DELETE, alias, Some(&alice), JsonValue::Null).await.0, StatusCode::OK);
    assert_eq!(refusal(&server.call(Method::DELETE, alias, Some(&alice), JsonValue::Null).await), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn room_is_listed_by_those_who_may() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = create(&server, &alice, json!({ "preset": "public_chat" })).await;
    server.post(&format!("/_matrix/client/v3/join/{room}"), Some(&bob), json!({})).await;
    let path = format!("/_matrix/client/v3/directory/list/room/{room}");
    assert_eq!(server.get(&path, None).await.1, json!({ "visibility": "private" }));
    assert_eq!(refusal(&server.put(&path, Some(&bob), json!({ "visibility": "public" })).await), (403, "M_FORBIDDEN"));
    assert_eq!(
        refusal(&server.put(&path, Some(&alice), json!({ "visibility": "odd" })).await),
        (400, "M_INVALID_PARAM")
    );
    assert_eq!(server.put(&path, Some(&alice), json!({})).await.0, StatusCode::OK);
    assert_eq!(server.get(&path, None).await.1, json!({ "visibility": "public" }));
    let unknown = "/_matrix/client/v3/directory/list/room/!unknown:chappe.example";
    assert_eq!(refusal(&server.get(unknown, None).await), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn public_rooms_are_paged_largest_first_and_searched() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let listed = |name: &str| json!({ "preset": "public_chat", "visibility": "public", "name": name });
    create(&server, &alice, listed("Small")).await;
    let large = create(&server, &alice, listed("Large")).await;
    let mut space = listed("A Space");
    space["creation_content"] = json!({ "type": "m.space" });
    create(&server, &alice, space).await;
    create(&server, &alice, json!({ "name": "Hidden" })).await;
    server.post(&format!("/_matrix/client/v3/join/{large}"), Some(&bob), json!({})).await;

    let path = "/_matrix/client/v3/publicRooms";
    let first = server.get(&format!("{path}?limit=2"), None).await.1;
    assert_eq!(first["chunk"][0]["name"], "Large");
    assert_eq!(first["chunk"][0]["num_joined_members"], 2);
    assert_eq!((first["total_room_count_estimate"].as_u64(), first.get("prev_batch")), (Some(3), None));
    let next = first["next_batch"].as_str().unwrap();
    let second = server.get(&format!("{path}?limit=2&since={next}"), None).await.1;
    assert_eq!(second["chunk"].as_array().unwrap().len(), 1);
    assert_eq!(second.get("next_batch"), None);
    let back = server.get(&format!("{path}?limit=2&since={}", second["prev_batch"].as_str().unwrap()), None).await.1;
    assert_eq!(back["chunk"], first["chunk"]);
    assert_eq!(refusal(&server.get(&format!("{path}?since=nonsense"), None).await), (400, "M_INVALID_PARAM"));
    assert_eq!(refusal(&server.get(&format!("{path}?server=elsewhere.example"), None).await), (401, "M_MISSING_TOKEN"));

    let search =
        async |filter: JsonValue| server.post(path, Some(&bob), json!({ "filter": filter })).await.1["chunk"].clone();
    let found = search(json!({ "generic_search_term": "sMaLl" })).await;
    assert_eq!((found.as_array().unwrap().len(), found[0]["name"].as_str()), (1, Some("Small")));
    let found = search(json!({ "room_types": ["m.space"] })).await;
    assert_eq!((found.as_array().unwrap().len(), found[0]["name"].as_str()), (1, Some("A Space")));
    assert_eq!(search(json!({ "room_types": [null] })).await.as_array().unwrap().len(), 2);
    assert_eq!(refusal(&server.post(path, None, json!({})).await), (401, "M_MISSING_TOKEN"));
}
