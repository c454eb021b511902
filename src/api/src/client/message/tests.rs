use http::StatusCode;
use serde_json::{Value as JsonValue, json};

use crate::test_app::TestApp;

struct Talk {
    server: TestApp,
    alice: String,
    room: String,
    events: Vec<String>,
}

/// A room in which Alice has said `count` things.
async fn talk(count: usize) -> Talk {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let room = server.post("/_matrix/client/v3/createRoom", Some(&alice), json!({ "preset": "public_chat" })).await.1;
    let mut talk = Talk { server, alice, room: room["room_id"].as_str().unwrap().to_owned(), events: Vec::new() };
    for number in 0..count {
        let event_id = talk.say(&talk.alice, &format!("txn{number}"), &number.to_string()).await;
        talk.events.push(event_id);
    }
    talk
}

impl Talk {
    fn path(&self, rest: &str) -> String {
        format!("/_matrix/client/v3/rooms/{}/{rest}", self.room)
    }

    async fn say(&self, token: &str, txn: &str, body: &str) -> String {
        let content = json!({ "msgtype": "m.text", "body": body });
        let (status, answer) =
            self.server.put(&self.path(&format!("send/m.room.message/{txn}")), Some(token), content).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["event_id"].as_str().unwrap().to_owned()
    }

    async fn get(&self, rest: &str) -> JsonValue {
        let (status, answer) = self.server.get(&self.path(rest), Some(&self.alice)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }
}

fn bodies(events: &JsonValue) -> Vec<String> {
    let bodies =
        events.as_array().unwrap().iter().map(|event| event["content"]["body"].as_str().unwrap_or("-").to_owned());
    bodies.collect()
}

fn refusal((status, body): &(StatusCode, JsonValue)) -> (u16, &str) {
    (status.as_u16(), body["errcode"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn repeated_transaction_sends_one_event() {
    let talk = talk(1).await;
    assert_eq!(talk.say(&talk.alice, "txn0", "0").await, talk.events[0]);
    assert_ne!(talk.say(&talk.alice, "txn1", "0").await, talk.events[0]);
}

#[tokio::test]
async fn sending_is_for_members() {
    let talk = talk(0).await;
    let bob = talk.server.register("bob").await;
    let path = talk.path("send/m.room.message/1");
    assert_eq!(refusal(&talk.server.put(&path, Some(&bob), json!({})).await), (403, "M_FORBIDDEN"));
    assert_eq!(refusal(&talk.server.put(&path, None, json!({})).await), (401, "M_MISSING_TOKEN"));
    assert_eq!(refusal(&talk.server.put(&path, Some(&talk.alice), json!([])).await), (400, "M_BAD_JSON"));
    assert_eq!(refusal(&talk.server.put(&path, Some(&talk.alice), json!({ "pi": 2.5 })).await), (400, "M_BAD_JSON"));
    let unknown = "/_matrix/client/v3/rooms/!unknown:chappe.example/send/m.room.message/1";
    assert_eq!(refusal(&talk.server.put(unknown, Some(&talk.alice), json!({})).await), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn paging_backwards_comes_to_an_end() {
    let talk = talk(7).await;
    let mut found = Vec::new();
    let mut from = String::new();
    for _ in 0..20 {
        let page = talk.get(&format!("messages?dir=b&limit=3{from}")).await;
        found.extend(bodies(&page["chunk"]));
        match page["end"].as_str() {
            Some(end) => from = format!("&from={end}"),
            None => break,
        }
    }
    assert_eq!(found[..7], ["6", "5", "4", "3", "2", "1", "0"]);
    let first = talk.get("messages?dir=f&limit=1").await;
    assert_eq!(first["chunk"][0]["type"], "m.room.create");
}

#[tokio::test]
async fn page_stops_at_its_other_bound_and_passes_a_filter() {
    let talk = talk(5).await;
    let newest = talk.get("messages?dir=b&limit=2").await;
    let end = newest["end"].as_str().unwrap();
    let rest = talk.get(&format!("messages?dir=b&limit=100&from={end}")).await;
    assert_eq!(bodies(&rest["chunk"])[..3], ["2", "1", "0"]);
    let again = talk.get(&format!("messages?dir=b&limit=100&to={end}")).await;
    assert_eq!(bodies(&again["chunk"]), ["4", "3"]);
    let filter = "%7B%22types%22%3A%5B%22m.room.member%22%5D%2C%22lazy_load_members%22%3Atrue%7D";
    let members = talk.get(&format!("messages?dir=b&filter={filter}")).await;
    assert_eq!(members["chunk"].as_array().unwrap().len(), 1);
    assert_eq!(members["state"][0]["state_key"], "@alice:chappe.example");
    assert_eq!(
        refusal(&talk.server.get(&talk.path("messages?dir=b&from=nonsense"), Some(&talk.alice)).await),
        (400, "M_INVALID_PARAM")
    );
}

#[tokio::test]
async fn history_is_closed_to_strangers_and_ends_where_one_left() {
    let talk = talk(2).await;
    let bob = talk.server.register("bob").await;
    let path = talk.path("messages?dir=b&limit=50");
    assert_eq!(refusal(&talk.server.get(&path, Some(&bob)).await), (403, "M_FORBIDDEN"));
    talk.server.post(&talk.path("join"), Some(&bob), JsonValue::Null).await;
    talk.server.post(&talk.path("leave"), Some(&bob), JsonValue::Null).await;
    talk.say(&talk.alice, "after", "after").await;
    let found = bodies(&talk.server.get(&path, Some(&bob)).await.1["chunk"]);
    assert!(found.contains(&"1".to_owned()) && !found.contains(&"after".to_owned()), "{found:?}");
}

#[tokio::test]
async fn context_shows_what_is_around_an_event() {
    let talk = talk(9).await;
    let context = talk.get(&format!("context/{}?limit=4", talk.events[4])).await;
    assert_eq!(bodies(&context["events_before"]), ["3", "2"]);
    assert_eq!(context["event"]["content"]["body"], "4");
    assert_eq!(bodies(&context["events_after"]), ["5", "6"]);
    assert!(context["state"].as_array().unwrap().iter().any(|event| event["type"] == "m.room.create"));
    let older = talk.get(&format!("messages?dir=b&limit=1&from={}", context["start"].as_str().unwrap())).await;
    assert_eq!(bodies(&older["chunk"]), ["1"]);
    let newer = talk.get(&format!("messages?dir=f&limit=1&from={}", context["end"].as_str().unwrap())).await;
    assert_eq!(bodies(&newer["chunk"]), ["7"]);
    let alone = talk.get(&format!("context/{}?limit=0", talk.events[4])).await;
    assert_eq!((bodies(&alone["events_before"]).len(), bodies(&alone["events_after"]).len()), (0, 0));
    let unknown = talk.server.get(&talk.path("context/$unknown"), Some(&talk.alice)).await;
    assert_eq!(refusal(&unknown), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn redacted_event_loses_its_content() {
    let talk = talk(2).await;
    let bob = talk.server.register("bob").await;
    talk.server.post(&talk.path("join"), Some(&bob), JsonValue::Null).await;
    let path = talk.path(&format!("redact/{}/r1", talk.events[0]));
    assert_eq!(refusal(&talk.server.put(&path, Some(&bob), json!({})).await), (403, "M_FORBIDDEN"));
    let (status, redaction) = talk.server.put(&path, Some(&talk.alice), JsonValue::Null).await;
    assert_eq!(status, StatusCode::OK, "{redaction}");
    let event = talk.get(&format!("event/{}", talk.events[0])).await;
    assert_eq!(event["content"], json!({}));
    assert_eq!(event["unsigned"]["redacted_because"]["event_id"], redaction["event_id"]);

    let path = talk.path("send/m.room.redaction/r2");
    let sent = talk.server.put(&path, Some(&talk.alice), json!({ "redacts": talk.events[1] })).await;
    assert_eq!(sent.0, StatusCode::OK, "{}", sent.1);
    assert_eq!(talk.get(&format!("event/{}", talk.events[1])).await["content"], json!({}));
    let path = talk.path("send/m.room.redaction/r3");
    assert_eq!(refusal(&talk.server.put(&path, Some(&talk.alice), json!({})).await), (400, "M_MISSING_PARAM"));
}
