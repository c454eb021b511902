use http::StatusCode;
use serde_json::{Value as JsonValue, json};

use crate::test_app::TestApp;

struct Talk {
    server: TestApp,
    alice: String,
    stranger: String,
    room: String,
    root: String,
    sent: usize,
}

impl Talk {
    /// A private room of Alice's, in which she has said something.
    async fn new() -> Self {
        let server = TestApp::new();
        let (alice, stranger) = (server.register("alice").await, server.register("stranger").await);
        let room = server.post("/_matrix/client/v3/createRoom", Some(&alice), json!({})).await.1;
        let room = room["room_id"].as_str().unwrap().to_owned();
        let mut talk = Self { server, alice, stranger, room, root: String::new(), sent: 0 };
        talk.root = talk.send(json!({ "msgtype": "m.text", "body": "root" })).await;
        talk
    }

    async fn send(&mut self, content: JsonValue) -> String {
        self.sent += 1;
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{}", self.room, self.sent);
        let (status, answer) = self.server.put(&path, Some(&self.alice), content).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["event_id"].as_str().unwrap().to_owned()
    }

    async fn reply(&mut self) -> String {
        let relation = json!({ "rel_type": "m.thread", "event_id": self.root });
        self.send(json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": relation })).await
    }

    async fn get(&self, path: &str, token: Option<&str>) -> (StatusCode, JsonValue) {
        self.server.get(&format!("/_matrix/client/v1/rooms/{}/{path}", self.room), token).await
    }
}

fn ids(answer: &JsonValue) -> Vec<&str> {
    answer["chunk"].as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn relations_are_paged_and_filtered() {
    let mut talk = Talk::new().await;
    let (first, second) = (talk.reply().await, talk.reply().await);
    let path = format!("relations/{}", talk.root);
    let (status, page) = talk.get(&format!("{path}?limit=1"), Some(&talk.alice)).await;
    assert_eq!((status, ids(&page)), (StatusCode::OK, vec![second.as_str()]), "{page}");
    assert!(page.get("prev_batch").is_none() && page.get("recursion_depth").is_none());
    let next = page["next_batch"].as_str().unwrap();
    let (_, page) = talk.get(&format!("{path}?limit=1&from={next}"), Some(&talk.alice)).await;
    assert_eq!((ids(&page), page["prev_batch"].as_str()), (vec![first.as_str()], Some(next)));
    for (rest, expected) in [("m.thread", 2), ("m.thread/m.room.message", 2), ("m.thread/m.x", 0), ("m.reference", 0)] {
        let (_, page) = talk.get(&format!("{path}/{rest}"), Some(&talk.alice)).await;
        assert_eq!(ids(&page).len(), expected, "{rest}");
    }
    let (_, page) = talk.get(&format!("{path}?recurse=true"), Some(&talk.alice)).await;
    assert_eq!(page["recursion_depth"], 2, "{page}");
}

#[tokio::test]
async fn relations_of_what_one_may_not_see_are_not_found() {
    let talk = Talk::new().await;
    let path = format!("relations/{}", talk.root);
    for (path, token, expected) in [
        (path.as_str(), None, (StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN")),
        (path.as_str(), Some(talk.stranger.as_str()), (StatusCode::NOT_FOUND, "M_NOT_FOUND")),
        ("relations/$nosuchevent", Some(talk.alice.as_str()), (StatusCode::NOT_FOUND, "M_NOT_FOUND")),
        (&format!("{path}?from=nonsense"), Some(talk.alice.as_str()), (StatusCode::BAD_REQUEST, "M_INVALID_PARAM")),
        (&format!("{path}?dir=x"), Some(talk.alice.as_str()), (StatusCode::BAD_REQUEST, "M_INVALID_PARAM")),
    ] {
        let (status, answer) = talk.get(path, token).await;
        assert_eq!((status, answer["errcode"].as_str().unwrap()), expected, "{path}");
    }
}

#[tokio::test]
async fn threads_are_listed_with_their_bundles() {
    let mut talk = Talk::new().await;
    let reply = talk.reply().await;
    let (status, page) = talk.get("threads", Some(&talk.alice)).await;
    assert_eq!((status, ids(&page)), (StatusCode::OK, vec![talk.root.as_str()]), "{page}");
    let thread = &page["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
    assert_eq!((&thread["latest_event"]["event_id"], &thread["count"]), (&json!(reply), &json!(1)));
    assert!(page.get("next_batch").is_none());
    let (_, event) = talk
        .server
        .get(&format!("/_matrix/client/v3/rooms/{}/event/{}", talk.room, talk.root), Some(&talk.alice))
        .await;
    assert_eq!(event["unsigned"]["m.relations"]["m.thread"]["count"], 1);
    for (path, token, expected) in [
        ("threads", None, (StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN")),
        ("threads", Some(talk.stranger.as_str()), (StatusCode::FORBIDDEN, "M_FORBIDDEN")),
        ("threads?include=some", Some(talk.alice.as_str()), (StatusCode::BAD_REQUEST, "M_INVALID_PARAM")),
        ("threads?from=nonsense", Some(talk.alice.as_str()), (StatusCode::BAD_REQUEST, "M_INVALID_PARAM")),
    ] {
        let (status, answer) = talk.get(path, token).await;
        assert_eq!((status, answer["errcode"].as_str().unwrap()), expected, "{path}");
    }
}

#[tokio::test]
async fn messages_are_filtered_by_relation() {
    let mut talk = Talk::new().await;
    let reply = talk.reply().await;
    for (filter, expected) in [
        (json!({ "org.matrix.msc3874.rel_types": ["m.thread"] }), vec![reply.as_str()]),
        (json!({ "types": ["m.room.message"], "not_rel_types": ["m.thread"] }), vec![talk.root.as_str()]),
        (json!({ "related_by_rel_types": ["m.thread"] }), vec![talk.root.as_str()]),
        (json!({ "related_by_senders": ["@alice:chappe.example"] }), vec![talk.root.as_str()]),
        (json!({ "related_by_senders": ["@bob:chappe.example"] }), vec![]),
    ] {
        let query: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("dir", "b")
            .append_pair("filter", &filter.to_string())
            .finish();
        let path = format!("/_matrix/client/v3/rooms/{}/messages?{query}", talk.room);
        let (status, page) = talk.server.get(&path, Some(&talk.alice)).await;
        assert_eq!((status, ids(&page)), (StatusCode::OK, expected), "{filter}");
    }
    let path = format!("/_matrix/client/v3/rooms/{}/messages", talk.room);
    let (status, answer) = talk.server.get(&path, Some(&talk.alice)).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_MISSING_PARAM")));
    let (status, _) = talk.server.get(&path, Some(&talk.stranger)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn relationships_are_walked() {
    let mut talk = Talk::new().await;
    let path = "/_matrix/client/unstable/event_relationships";
    let child = json!({ "body": "a child", "m.relationship": { "rel_type": "m.reference", "event_id": talk.root } });
    let child = talk.send(child).await;
    let query = json!({ "event_id": talk.root, "direction": "down", "recent_first": false });
    let (status, answer) = talk.server.post(path, Some(&talk.alice), query.clone()).await;
    assert_eq!((status, &answer["limited"]), (StatusCode::OK, &json!(false)), "{answer}");
    assert_eq!(answer["events"].as_array().unwrap().len(), 2);
    assert_eq!(answer["events"][1]["event_id"], child);
    assert_eq!(answer["events"][0]["unsigned"]["children"], json!({ "m.reference": 1 }));
    assert_eq!(answer["events"][1]["unsigned"]["children"], json!({}));

    for (token, query, expected) in [
        (None, query.clone(), (StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN")),
        (Some(&talk.stranger), query, (StatusCode::NOT_FOUND, "M_NOT_FOUND")),
        (Some(&talk.alice), json!({ "event_id": "$nothing" }), (StatusCode::NOT_FOUND, "M_NOT_FOUND")),
        (Some(&talk.alice), json!({}), (StatusCode::BAD_REQUEST, "M_BAD_JSON")),
        (
            Some(&talk.alice),
            json!({ "event_id": talk.root, "direction": "left" }),
            (StatusCode::BAD_REQUEST, "M_BAD_JSON"),
        ),
        (
            Some(&talk.alice),
            json!({ "event_id": talk.root, "batch": "x" }),
            (StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
        ),
    ] {
        let (status, answer) = talk.server.post(path, token.map(String::as_str), query).await;
        assert_eq!((status, answer["errcode"].as_str().unwrap()), expected);
    }
}
