use chappe_services::emails::ValidatedEmail;
use http::{Method, StatusCode};
use ruma::user_id;
use serde_json::{Value, json};

use crate::test_app::TestApp;

const RULES: &str = "/_matrix/client/v3/pushrules/global";

async fn ids(server: &TestApp, token: &str, kind: &str) -> Vec<String> {
    let (status, all) = server.get("/_matrix/client/v3/pushrules/", Some(token)).await;
    assert_eq!(status, StatusCode::OK, "{all}");
    let rules = all["global"][kind].as_array().unwrap();
    rules.iter().map(|rule| rule["rule_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_new_account_has_the_default_rules() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let overrides = ids(&server, &token, "override").await;
    assert_eq!(overrides.first().unwrap(), ".m.rule.master");
    for kind in ["content", "override", "room", "sender", "underride"] {
        assert!(server.get(&format!("{RULES}/"), Some(&token)).await.1[kind].is_array(), "{kind}");
    }
    let (_, mention) = server.get(&format!("{RULES}/override/.m.rule.is_user_mention"), Some(&token)).await;
    assert_eq!(mention["conditions"][0]["value"], "@alice:chappe.example");
    assert_eq!((&mention["default"], &mention["enabled"]), (&json!(true), &json!(true)));
    let (_, poll) = server.get(&format!("{RULES}/underride/.org.matrix.msc3930.rule.poll_start"), Some(&token)).await;
    assert_eq!(
        poll["conditions"],
        json!([{ "kind": "event_match", "key": "type", "pattern": "org.matrix.msc3381.poll.start" }])
    );
}

#[tokio::test]
async fn rules_are_put_where_they_are_wanted() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let put = async |path: &str, body: Value| server.put(&format!("{RULES}/{path}"), Some(&token), body).await;
    let cake = json!({ "pattern": "cake", "actions": ["notify"] });
    assert_eq!(put("content/a", cake.clone()).await, (StatusCode::OK, json!({})));
    assert_eq!(put("content/b", cake.clone()).await.0, StatusCode::OK);
    assert_eq!(put("content/c?after=a", cake.clone()).await.0, StatusCode::OK);
    assert_eq!(put("content/d?before=a", cake.clone()).await.0, StatusCode::OK);
    assert_eq!(ids(&server, &token, "content").await, ["b", "d", "a", "c", ".m.rule.contains_user_name"]);
    let (status, error) = put("content/e?before=missing", cake.clone()).await;
    assert_eq!((status, &error["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_UNKNOWN")));
    for path in ["content/.mine", "content/e?before=.m.rule.contains_user_name", "content/e%5Cf", "wrong/a"] {
        assert_eq!(put(path, cake.clone()).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
    assert_eq!(put("content/e", json!({ "actions": ["notify"] })).await.1["errcode"], "M_BAD_JSON");
    assert_eq!(put("override/e", json!({ "conditions": [] })).await.1["errcode"], "M_BAD_JSON");
    let overriding = json!({ "conditions": [], "actions": ["notify"] });
    assert_eq!(put("override/mine", overriding).await.0, StatusCode::OK);
    assert_eq!(ids(&server, &token, "override").await[..2], [".m.rule.master", "mine"]);
}

#[tokio::test]
async fn actions_and_switches_of_a_rule_are_changed_by_themselves() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    // Whether the room is known does not matter.
    let rule = format!("{RULES}/room/!nowhere:elsewhere.example");
    assert_eq!(server.put(&rule, Some(&token), json!({ "actions": ["dont_notify"] })).await.0, StatusCode::OK);
    assert_eq!(server.get(&rule, Some(&token)).await.1["actions"], json!(["dont_notify"]));
    for (what, value) in [("enabled", json!(false)), ("actions", json!(["notify", { "set_tweak": "highlight" }]))] {
        let path = format!("{rule}/{what}");
        assert_eq!(server.put(&path, Some(&token), json!({ what: value })).await, (StatusCode::OK, json!({})));
        assert_eq!(server.get(&path, Some(&token)).await, (StatusCode::OK, json!({ what: value })));
        assert_eq!(server.put(&path, Some(&token), json!({})).await.1["errcode"], "M_BAD_JSON");
        let missing = format!("{RULES}/room/!other:elsewhere.example/{what}");
        assert_eq!(server.get(&missing, Some(&token)).await.1["errcode"], "M_NOT_FOUND");
        assert_eq!(server.put(&missing, Some(&token), json!({ what: value })).await.1["errcode"], "M_NOT_FOUND");
    }
    let (_, kept) = server.get(&rule, Some(&token)).await;
    assert_eq!((&kept["enabled"], &kept["default"]), (&json!(false), &json!(false)));
    let default = format!("{RULES}/underride/.m.rule.message/enabled");
    assert_eq!(server.put(&default, Some(&token), json!({ "enabled": false })).await.0, StatusCode::OK);
    assert_eq!(server.get(&default, Some(&token)).await.1["enabled"], false);
}

#[tokio::test]
async fn own_rules_are_deleted_and_default_ones_are_not() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let rule = format!("{RULES}/sender/@spam:elsewhere.example");
    let delete = async |path: &str| server.call(Method::DELETE, path, Some(&token), Value::Null).await;
    assert_eq!(delete(&rule).await.1["errcode"], "M_NOT_FOUND");
    server.put(&rule, Some(&token), json!({ "actions": [] })).await;
    assert_eq!(delete(&rule).await, (StatusCode::OK, json!({})));
    assert_eq!(server.get(&rule, Some(&token)).await.1["errcode"], "M_NOT_FOUND");
    let (status, error) = delete(&format!("{RULES}/override/.m.rule.master")).await;
    assert_eq!((status, &error["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
    assert_eq!(server.get(&format!("{RULES}/postcontent/x"), Some(&token)).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn push_rules_need_a_token() {
    let server = TestApp::new();
    for path in ["/_matrix/client/v3/pushrules/".to_owned(), format!("{RULES}/"), format!("{RULES}/content/a")] {
        assert_eq!(server.get(&path, None).await.1["errcode"], "M_MISSING_TOKEN", "{path}");
    }
    for path in ["content/a", "content/a/enabled", "content/a/actions"] {
        let path = format!("{RULES}/{path}");
        assert_eq!(server.put(&path, None, json!({})).await.1["errcode"], "M_MISSING_TOKEN", "{path}");
    }
    let (_, error) = server.call(Method::DELETE, &format!("{RULES}/content/a"), None, Value::Null).await;
    assert_eq!(error["errcode"], "M_MISSING_TOKEN");
}

#[tokio::test]
async fn sync_and_account_data_show_the_rules_once() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let rules_in = |answer: &Value| -> Vec<Value> {
        let events = answer["account_data"]["events"].as_array().cloned().unwrap_or_default();
        events.into_iter().filter(|event| event["type"] == "m.push_rules").collect()
    };
    let (_, first) = server.get("/_matrix/client/v3/sync", Some(&token)).await;
    assert_eq!(rules_in(&first).len(), 1);
    assert_eq!(rules_in(&first)[0]["content"]["global"]["override"][0]["rule_id"], ".m.rule.master");

    let since = format!("/_matrix/client/v3/sync?since={}", first["next_batch"].as_str().unwrap());
    assert!(rules_in(&server.get(&since, Some(&token)).await.1).is_empty());
    server.put(&format!("{RULES}/room/!a:b.example"), Some(&token), json!({ "actions": [] })).await;
    let (_, next) = server.get(&since, Some(&token)).await;
    assert_eq!(rules_in(&next)[0]["content"]["global"]["room"][0]["rule_id"], "!a:b.example");
    let (_, whole) = server.get("/_matrix/client/v3/sync", Some(&token)).await;
    assert_eq!(rules_in(&whole).len(), 1);
    let path = "/_matrix/client/v3/user/@alice:chappe.example/account_data/m.push_rules";
    let (_, content) = server.get(path, Some(&token)).await;
    assert_eq!(content["global"]["room"][0]["rule_id"], "!a:b.example");
}

fn pusher(pushkey: &str) -> Value {
    json!({
        "app_display_name": "App",
        "app_id": "com.example.app",
        "data": { "url": "https://push.example/_matrix/push/v1/notify", "format": "event_id_only" },
        "device_display_name": "Phone",
        "kind": "http",
        "lang": "en",
        "profile_tag": "tag",
        "pushkey": pushkey,
    })
}

const PUSHERS: &str = "/_matrix/client/v3/pushers";

#[tokio::test]
async fn pushers_are_set_shown_and_deleted() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let set = async |body: Value| server.post(&format!("{PUSHERS}/set"), Some(&token), body).await;
    assert_eq!(server.get(PUSHERS, Some(&token)).await, (StatusCode::OK, json!({ "pushers": [] })));
    assert_eq!(set(pusher("key")).await, (StatusCode::OK, json!({})));
    assert_eq!(server.get(PUSHERS, Some(&token)).await.1, json!({ "pushers": [pusher("key")] }));
    let email = json!({
        "app_display_name": "Mail", "app_id": "m.email", "data": {}, "device_display_name": "Mail",
        "kind": "email", "lang": "en", "pushkey": "alice@mail.example",
    });
    let (status, error) = set(email.clone()).await;
    assert_eq!((status, &error["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_THREEPID_NOT_FOUND")));
    let own = ValidatedEmail { sid: "1".to_owned(), address: "alice@mail.example".to_owned(), validated_ms: 1 };
    server.app.emails.add(user_id!("@alice:chappe.example"), &own).await.unwrap();
    assert_eq!(set(email.clone()).await.0, StatusCode::OK);
    assert_eq!(set(json!({ "app_id": "com.example.app", "pushkey": "key", "kind": null })).await.0, StatusCode::OK);
    assert_eq!(server.get(PUSHERS, Some(&token)).await.1, json!({ "pushers": [email] }));
}

#[tokio::test]
async fn pushers_that_cannot_be_are_refused() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let set = async |body: Value| server.post(&format!("{PUSHERS}/set"), Some(&token), body).await;
    for missing in ["app_display_name", "app_id", "data", "device_display_name", "kind", "lang", "pushkey"] {
        let mut body = pusher("key");
        body.as_object_mut().unwrap().remove(missing);
        let (status, error) = set(body).await;
        assert_eq!((status, &error["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_MISSING_PARAM")), "{missing}");
    }
    for (field, value, errcode) in [
        ("data", json!({}), "M_MISSING_PARAM"),
        ("data", json!({ "url": "http://push.example/_matrix/push/v1/notify" }), "M_INVALID_PARAM"),
        ("data", json!({ "url": "https://push.example/other" }), "M_INVALID_PARAM"),
        ("data", json!([]), "M_BAD_JSON"),
        ("kind", json!("pigeon"), "M_INVALID_PARAM"),
        ("app_id", json!("x".repeat(65)), "M_INVALID_PARAM"),
        ("pushkey", json!("x".repeat(513)), "M_INVALID_PARAM"),
        ("pushkey", json!("a\u{0}b"), "M_INVALID_PARAM"),
    ] {
        let mut body = pusher("key");
        body[field] = value.clone();
        let (status, error) = set(body).await;
        assert_eq!((status, &error["errcode"]), (StatusCode::BAD_REQUEST, &json!(errcode)), "{field} {value}");
    }
    assert_eq!(server.get(PUSHERS, None).await.1["errcode"], "M_MISSING_TOKEN");
    assert_eq!(server.post(&format!("{PUSHERS}/set"), None, pusher("key")).await.1["errcode"], "M_MISSING_TOKEN");
}

#[tokio::test]
async fn pushers_go_with_the_device_that_set_them() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let login = json!({ "type": "m.login.password", "user": "alice", "password": "secret" });
    let (_, other) = server.post("/_matrix/client/v3/login", None, login).await;
    let other = other["access_token"].as_str().unwrap();
    server.post(&format!("{PUSHERS}/set"), Some(&token), pusher("stays")).await;
    server.post(&format!("{PUSHERS}/set"), Some(other), pusher("goes")).await;
    assert_eq!(server.get(PUSHERS, Some(&token)).await.1["pushers"].as_array().unwrap().len(), 2);
    server.post("/_matrix/client/v3/logout", Some(other), json!({})).await;
    assert_eq!(server.get(PUSHERS, Some(&token)).await.1, json!({ "pushers": [pusher("stays")] }));
}

#[tokio::test]
async fn notifications_are_listed_newest_first_in_pages() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..2 {
        let body = json!({ "preset": "public_chat" });
        let (_, created) = server.post("/_matrix/client/v3/createRoom", Some(&alice), body).await;
        let room = created["room_id"].as_str().unwrap().to_owned();
        assert_eq!(
            server.post(&format!("/_matrix/client/v3/join/{room}"), Some(&bob), json!({})).await.0,
            StatusCode::OK
        );
        rooms.push(room);
    }
    let mut sent = Vec::new();
    for at in 0..6 {
        let content = match at {
            2 => json!({ "body": "you", "m.mentions": { "user_ids": ["@bob:chappe.example"] } }),
            _ => json!({ "body": "hello" }),
        };
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{at}", rooms[at % 2]);
        sent.push(server.put(&path, Some(&alice), content).await.1["event_id"].clone());
    }
    let receipt = format!("/_matrix/client/v3/rooms/{}/receipt/m.read/{}", rooms[0], sent[2].as_str().unwrap());
    server.post(&receipt, Some(&bob), json!({})).await;

    const LIST: &str = "/_matrix/client/v3/notifications";
    let (mut seen, mut path) = (Vec::new(), format!("{LIST}?limit=4"));
    loop {
        let (status, page) = server.get(&path, Some(&bob)).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        for notification in page["notifications"].as_array().unwrap() {
            assert_eq!(notification["actions"][0], "notify");
            seen.push((notification["event"]["event_id"].clone(), notification["read"].clone()));
        }
        let Some(next) = page["next_token"].as_str() else { break };
        path = format!("{LIST}?limit=4&from={next}");
    }
    let expected = [5, 4, 3, 2, 1, 0].map(|at: usize| (sent[at].clone(), json!(at == 0 || at == 2)));
    assert_eq!(seen, expected);

    let (_, highlights) = server.get(&format!("{LIST}?only=highlight"), Some(&bob)).await;
    let highlights = highlights["notifications"].as_array().unwrap();
    assert_eq!((highlights.len(), &highlights[0]["event"]["event_id"]), (1, &sent[2]));
    assert_eq!(server.get(LIST, Some(&alice)).await.1, json!({ "notifications": [] }), "what she sent herself");
    assert_eq!(server.get(LIST, None).await.1["errcode"], "M_MISSING_TOKEN");
    assert_eq!(server.get(&format!("{LIST}?from=x"), Some(&bob)).await.1["errcode"], "M_INVALID_PARAM");
}

#[tokio::test]
async fn sync_counts_what_is_unread_by_room_or_by_thread() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (_, created) =
        server.post("/_matrix/client/v3/createRoom", Some(&alice), json!({ "preset": "public_chat" })).await;
    let room = created["room_id"].as_str().unwrap();
    server.post(&format!("/_matrix/client/v3/join/{room}"), Some(&bob), json!({})).await;
    let send = async |txn: &str, content: Value| {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{txn}");
        server.put(&path, Some(&alice), content).await.1["event_id"].as_str().unwrap().to_owned()
    };
    let root = send("1", json!({ "body": "root" })).await;
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let reply = send("2", json!({ "body": "hey bob", "m.relates_to": relation })).await;

    let by_thread = "filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22unread_thread_notifications%22%3Atrue%7D%7D%7D";
    let (_, whole) = server.get("/_matrix/client/v3/sync", Some(&bob)).await;
    let part = &whole["rooms"]["join"][room];
    assert_eq!(part["unread_notifications"], json!({ "notification_count": 2, "highlight_count": 1 }));
    assert!(part.get("unread_thread_notifications").is_none());
    let (_, threads) = server.get(&format!("/_matrix/client/v3/sync?{by_thread}"), Some(&bob)).await;
    let part = &threads["rooms"]["join"][room];
    assert_eq!(part["unread_notifications"], json!({ "notification_count": 1, "highlight_count": 0 }));
    let counts = json!({ "notification_count": 1, "highlight_count": 1 });
    assert_eq!(part["unread_thread_notifications"], json!({ root.as_str(): counts }));

    // A receipt wakes whoever waits; a client that wants no receipts is told of the counts alone.
    let since = whole["next_batch"].as_str().unwrap();
    let quiet = "filter=%7B%22room%22%3A%7B%22ephemeral%22%3A%7B%22types%22%3A%5B%5D%7D%7D%7D";
    let path = format!("/_matrix/client/v3/sync?since={since}&timeout=20000&{quiet}");
    let receipt = format!("/_matrix/client/v3/rooms/{room}/receipt/m.read.private/{reply}");
    let (woken, _) = tokio::join!(server.get(&path, Some(&bob)), server.post(&receipt, Some(&bob), json!({})));
    let part = &woken.1["rooms"]["join"][room];
    assert_eq!(part["unread_notifications"], json!({ "notification_count": 0, "highlight_count": 0 }));
}

#[tokio::test]
async fn rules_of_thread_subscriptions_are_the_servers_only() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    for (name, subscribed) in [("unsubscribed_thread", false), ("subscribed_thread", true)] {
        let rule = format!("{RULES}/postcontent/.io.element.msc4306.rule.{name}");
        let (status, shown) = server.get(&rule, Some(&token)).await;
        assert_eq!((status, &shown["enabled"]), (StatusCode::OK, &json!(true)), "{shown}");
        let condition = json!({ "kind": "io.element.msc4306.thread_subscription", "subscribed": subscribed });
        assert_eq!(shown["conditions"], json!([condition]));
        assert_eq!(
            server.put(&format!("{rule}/enabled"), Some(&token), json!({ "enabled": false })).await.0,
            StatusCode::OK
        );
        assert_eq!(server.get(&rule, Some(&token)).await.1["enabled"], false);
        let (status, error) = server.call(Method::DELETE, &rule, Some(&token), Value::Null).await;
        assert_eq!((status, &error["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
    }
    let (status, error) =
        server.put(&format!("{RULES}/postcontent/own"), Some(&token), json!({ "actions": [], "conditions": [] })).await;
    assert_eq!((status, &error["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")), "{error}");
}
