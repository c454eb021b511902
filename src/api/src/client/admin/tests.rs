use http::StatusCode;
use serde_json::{Value as JsonValue, json};

use crate::test_app::TestApp;

const NOTICE: &str = "/_synapse/admin/v1/send_server_notice";
const ALICE: &str = "@alice:chappe.example";

fn refusal((status, body): &(StatusCode, JsonValue)) -> (u16, &str) {
    (status.as_u16(), body["errcode"].as_str().unwrap_or_default())
}

fn admin_path(what: &str, user: &str) -> String {
    format!("/_matrix/client/v1/admin/{what}/{user}")
}

#[tokio::test]
async fn whois_is_for_oneself_and_for_administrators() {
    let server = TestApp::new();
    let admin = server.register_admin("root").await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = format!("/_matrix/client/v3/admin/whois/{ALICE}");
    for token in [&alice, &admin] {
        let (status, answer) = server.get(&path, Some(token)).await;
        assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!(ALICE)));
        let devices = answer["devices"].as_object().unwrap();
        let connection = &devices.values().next().unwrap()["sessions"][0]["connections"][0];
        assert_eq!(connection["last_seen"], json!(1_700_000_000_000_u64));
    }
    assert_eq!(refusal(&server.get(&path, Some(&bob)).await), (403, "M_FORBIDDEN"));
    assert_eq!(refusal(&server.get(&path, None).await), (401, "M_MISSING_TOKEN"));
    let unknown = "/_matrix/client/v3/admin/whois/@nobody:chappe.example";
    assert_eq!(refusal(&server.get(unknown, Some(&admin)).await), (404, "M_NOT_FOUND"));
    let malformed = "/_matrix/client/v3/admin/whois/nobody";
    assert_eq!(refusal(&server.get(malformed, Some(&admin)).await), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn restrictions_are_administrators_business() {
    let server = TestApp::new();
    let admin = server.register_admin("root").await;
    let alice = server.register("alice").await;
    for (what, field) in [("lock", "locked"), ("suspend", "suspended")] {
        let path = admin_path(what, ALICE);
        assert_eq!(server.get(&path, Some(&admin)).await, (StatusCode::OK, json!({ field: false })));
        let set = server.put(&path, Some(&admin), json!({ field: true })).await;
        assert_eq!(set, (StatusCode::OK, json!({ field: true })));
        assert_eq!(server.get(&path, Some(&admin)).await.1, json!({ field: true }));
        server.put(&path, Some(&admin), json!({ field: false })).await;
        assert_eq!(server.get(&path, Some(&admin)).await.1, json!({ field: false }));

        let body = json!({ field: true });
        assert_eq!(refusal(&server.put(&path, None, body.clone()).await), (401, "M_MISSING_TOKEN"));
        assert_eq!(refusal(&server.get(&path, Some(&alice)).await), (403, "M_FORBIDDEN"));
        for user in [ALICE, "@nobody:chappe.example", "@alice:elsewhere.example"] {
            let refused = server.put(&admin_path(what, user), Some(&alice), body.clone()).await;
            assert_eq!(refusal(&refused), (403, "M_FORBIDDEN"), "nobody else learns who there is: {user}");
        }
        for (user, expected) in [
            ("@root:chappe.example", (403, "M_FORBIDDEN")),
            ("@nobody:chappe.example", (404, "M_NOT_FOUND")),
            ("@alice:elsewhere.example", (400, "M_INVALID_PARAM")),
        ] {
            let refused = server.put(&admin_path(what, user), Some(&admin), body.clone()).await;
            assert_eq!(refusal(&refused), expected, "{user}");
        }
        assert_eq!(refusal(&server.put(&path, Some(&admin), json!({ field: 1 })).await), (400, "M_BAD_JSON"));
    }
}

#[tokio::test]
async fn locked_account_can_only_log_out() {
    let server = TestApp::new();
    let admin = server.register_admin("root").await;
    let alice = server.register("alice").await;
    let whoami = "/_matrix/client/v3/account/whoami";
    server.put(&admin_path("lock", ALICE), Some(&admin), json!({ "locked": true })).await;
    let refused = server.get(whoami, Some(&alice)).await;
    assert_eq!((refusal(&refused), &refused.1["soft_logout"]), ((401, "M_USER_LOCKED"), &json!(true)));
    let login = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "secret" });
    let refused = server.post("/_matrix/client/v3/login", None, login.clone()).await;
    assert_eq!(refusal(&refused), (401, "M_USER_LOCKED"));

    server.put(&admin_path("lock", ALICE), Some(&admin), json!({ "locked": false })).await;
    assert_eq!(server.get(whoami, Some(&alice)).await.0, StatusCode::OK, "the session was kept");
    server.put(&admin_path("lock", ALICE), Some(&admin), json!({ "locked": true })).await;
    assert_eq!(server.post("/_matrix/client/v3/logout", Some(&alice), json!({})).await.0, StatusCode::OK);
    assert_eq!(refusal(&server.get(whoami, Some(&alice)).await), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn suspended_account_reads_and_leaves_and_does_nothing_to_others() {
    let server = TestApp::new();
    let admin = server.register_admin("root").await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let create = "/_matrix/client/v3/createRoom";
    let room = server.post(create, Some(&alice), json!({ "preset": "public_chat" })).await.1["room_id"].clone();
    let room = room.as_str().unwrap().to_owned();
    let other = server.post(create, Some(&bob), json!({ "preset": "public_chat" })).await.1["room_id"].clone();
    let at = |rest: &str| format!("/_matrix/client/v3/rooms/{room}/{rest}");
    server.post(&at("join"), Some(&bob), json!({})).await;
    let say = |token: String, txn: &'static str| {
        let (server, path) = (&server, at(&format!("send/m.room.message/{txn}")));
        async move { server.put(&path, Some(&token), json!({ "msgtype": "m.text", "body": "hello" })).await }
    };
    let own = say(alice.clone(), "1").await.1["event_id"].as_str().unwrap().to_owned();
    let bobs = say(bob.clone(), "2").await.1["event_id"].as_str().unwrap().to_owned();
    server.put(&admin_path("suspend", ALICE), Some(&admin), json!({ "suspended": true })).await;

    let suspended = (403, "M_USER_SUSPENDED");
    assert_eq!(refusal(&say(alice.clone(), "3").await), suspended);
    assert_eq!(refusal(&server.post(create, Some(&alice), json!({})).await), suspended);
    let target = json!({ "user_id": "@bob:chappe.example" });
    for action in ["invite", "kick", "ban"] {
        assert_eq!(refusal(&server.post(&at(action), Some(&alice), target.clone()).await), suspended, "{action}");
    }
    let join = format!("/_matrix/client/v3/join/{}", other.as_str().unwrap());
    assert_eq!(refusal(&server.post(&join, Some(&alice), json!({})).await), suspended);
    assert_eq!(refusal(&server.put(&at("state/m.room.topic"), Some(&alice), json!({ "topic": "x" })).await), suspended);
    let name = format!("/_matrix/client/v3/profile/{ALICE}/displayname");
    assert_eq!(refusal(&server.put(&name, Some(&alice), json!({ "displayname": "x" })).await), suspended);
    assert_eq!(refusal(&server.put(&at(&format!("redact/{bobs}/r1")), Some(&alice), json!({})).await), suspended);
    let sent = server.put(&at("send/m.room.redaction/r2"), Some(&alice), json!({ "redacts": bobs })).await;
    assert_eq!(refusal(&sent), suspended);

    assert_eq!(server.put(&at(&format!("redact/{own}/r3")), Some(&alice), json!({})).await.0, StatusCode::OK);
    assert_eq!(server.get(&at("messages?dir=b"), Some(&alice)).await.0, StatusCode::OK);
    assert_eq!(server.post(&at("leave"), Some(&alice), json!({})).await.0, StatusCode::OK);
}

#[tokio::test]
async fn notice_comes_in_a_room_whose_invite_cannot_be_declined() {
    let server = TestApp::new();
    let admin = server.register_admin("root").await;
    let alice = server.register("alice").await;
    let body = json!({ "user_id": ALICE, "content": { "msgtype": "m.text", "body": "maintenance" } });
    assert_eq!(refusal(&server.post(NOTICE, Some(&alice), JsonValue::Null).await), (403, "M_FORBIDDEN"));
    assert_eq!(refusal(&server.post(NOTICE, None, body.clone()).await), (401, "M_MISSING_TOKEN"));
    assert_eq!(refusal(&server.post(NOTICE, Some(&admin), json!({})).await), (400, "M_BAD_JSON"));
    let nobody = json!({ "user_id": "@nobody:chappe.example", "content": {} });
    assert_eq!(refusal(&server.post(NOTICE, Some(&admin), nobody).await), (404, "M_NOT_FOUND"));

    let (status, sent) = server.post(NOTICE, Some(&admin), body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{sent}");
    let sync = "/_matrix/client/v3/sync";
    let invited = server.get(sync, Some(&alice)).await.1["rooms"]["invite"].as_object().unwrap().clone();
    let (room, invite) = invited.iter().next().unwrap();
    let events = invite["invite_state"]["events"].as_array().unwrap();
    assert!(events.iter().all(|event| event["sender"] == "@_server:chappe.example"), "{events:?}");
    let at = |rest: &str| format!("/_matrix/client/v3/rooms/{room}/{rest}");
    let declined = (403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM");
    assert_eq!(refusal(&server.post(&at("leave"), Some(&alice), json!({})).await), declined);
    let state = at(&format!("state/m.room.member/{ALICE}"));
    assert_eq!(refusal(&server.put(&state, Some(&alice), json!({ "membership": "leave" })).await), declined);
    let tags =
        server.get(&format!("/_matrix/client/v3/user/{ALICE}/rooms/{room}/account_data/m.tag"), Some(&alice)).await;
    assert_eq!(tags.1, json!({ "tags": { "m.server_notice": {} } }));

    assert_eq!(server.post(&at("join"), Some(&alice), json!({})).await.0, StatusCode::OK);
    let event = at(&format!("event/{}", sent["event_id"].as_str().unwrap()));
    assert_eq!(server.get(&event, Some(&alice)).await.1["content"]["body"], "maintenance");
    let answer = at("send/m.room.message/1");
    assert_eq!(refusal(&server.put(&answer, Some(&alice), json!({ "body": "no" })).await), (403, "M_FORBIDDEN"));
    assert_eq!(server.post(&at("leave"), Some(&alice), json!({})).await.0, StatusCode::OK);

    let path = format!("{NOTICE}/once");
    let first = server.put(&path, Some(&admin), body.clone()).await;
    assert_eq!((first.0, &first), (StatusCode::OK, &server.put(&path, Some(&admin), body).await));
    let invited = server.get(sync, Some(&alice)).await.1["rooms"]["invite"].as_object().unwrap().clone();
    assert_eq!(invited.keys().collect::<Vec<_>>(), [room], "the same room again");
}
