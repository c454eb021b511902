use http::StatusCode;
use serde_json::{Value as JsonValue, json};

use crate::test_app::TestApp;

struct Three {
    server: TestApp,
    alice: String,
    bob: String,
    room: String,
}

/// Alice's room, and Bob, who is not in it.
async fn room(body: JsonValue) -> Three {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (status, room) = server.post("/_matrix/client/v3/createRoom", Some(&alice), body).await;
    assert_eq!(status, StatusCode::OK, "{room}");
    Three { server, alice, bob, room: room["room_id"].as_str().unwrap().to_owned() }
}

impl Three {
    async fn act(&self, token: &str, what: &str, body: JsonValue) -> (StatusCode, JsonValue) {
        self.server.post(&format!("/_matrix/client/v3/rooms/{}/{what}", self.room), Some(token), body).await
    }

    async fn membership(&self, user: &str) -> String {
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/@{user}:chappe.example", self.room);
        let (_, content) = self.server.get(&path, Some(&self.alice)).await;
        content["membership"].as_str().unwrap_or_default().to_owned()
    }
}

fn refusal((status, body): &(StatusCode, JsonValue)) -> (u16, &str) {
    (status.as_u16(), body["errcode"].as_str().unwrap_or_default())
}

fn bob() -> JsonValue {
    json!({ "user_id": "@bob:chappe.example", "reason": "because" })
}

#[tokio::test]
async fn invited_user_joins_leaves_and_forgets() {
    let three = room(json!({})).await;
    assert_eq!(refusal(&three.act(&three.bob, "join", JsonValue::Null).await), (403, "M_FORBIDDEN"));
    assert_eq!(three.act(&three.alice, "invite", bob()).await.0, StatusCode::OK);
    assert_eq!(three.membership("bob").await, "invite");
    let joined = three.act(&three.bob, "join", JsonValue::Null).await;
    assert_eq!(joined.1["room_id"], three.room);
    let rooms = three.server.get("/_matrix/client/v3/joined_rooms", Some(&three.bob)).await.1;
    assert_eq!(rooms, json!({ "joined_rooms": [three.room] }));
    assert_eq!(refusal(&three.act(&three.bob, "forget", json!({})).await), (400, "M_UNKNOWN"));
    assert_eq!(three.act(&three.bob, "leave", json!({})).await.0, StatusCode::OK);
    assert_eq!(three.act(&three.bob, "forget", json!({})).await.0, StatusCode::OK);
    let path = format!("/_matrix/client/v3/rooms/{}/state", three.room);
    assert_eq!(refusal(&three.server.get(&path, Some(&three.bob)).await), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn moderators_kick_ban_and_unban() {
    let three = room(json!({ "preset": "public_chat" })).await;
    three.act(&three.bob, "join", JsonValue::Null).await;
    let alice = json!({ "user_id": "@alice:chappe.example" });
    assert_eq!(refusal(&three.act(&three.bob, "kick", alice).await), (403, "M_FORBIDDEN"));
    assert_eq!(three.act(&three.alice, "kick", bob()).await.0, StatusCode::OK);
    assert_eq!(three.membership("bob").await, "leave");
    assert_eq!(refusal(&three.act(&three.alice, "kick", bob()).await), (403, "M_FORBIDDEN"));
    assert_eq!(three.act(&three.alice, "ban", bob()).await.0, StatusCode::OK);
    assert_eq!(refusal(&three.act(&three.bob, "join", JsonValue::Null).await), (403, "M_FORBIDDEN"));
    assert_eq!(three.act(&three.alice, "unban", bob()).await.0, StatusCode::OK);
    assert_eq!(three.act(&three.bob, "join", JsonValue::Null).await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_is_wrong_with_a_target_is_told() {
    let three = room(json!({})).await;
    assert_eq!(refusal(&three.act(&three.alice, "invite", json!({})).await), (400, "M_MISSING_PARAM"));
    assert_eq!(refusal(&three.act(&three.alice, "ban", json!({ "user_id": "bob" })).await), (400, "M_INVALID_PARAM"));
    let third_party =
        json!({ "medium": "email", "address": "a@b.example", "id_server": "id.example", "id_access_token": "x" });
    assert_eq!(refusal(&three.act(&three.alice, "invite", third_party).await), (403, "M_THREEPID_DENIED"));
    let unknown =
        three.server.post("/_matrix/client/v3/rooms/!unknown:chappe.example/invite", Some(&three.alice), bob()).await;
    assert_eq!(refusal(&unknown), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn room_is_joined_and_knocked_on_by_its_alias() {
    let three = room(json!({ "preset": "public_chat", "room_alias_name": "lounge" })).await;
    let join = |alias: &str| format!("/_matrix/client/v3/join/%23{alias}:chappe.example");
    let joined = three.server.post(&join("lounge"), Some(&three.bob), json!({})).await;
    assert_eq!(joined.1["room_id"], three.room);
    assert_eq!(refusal(&three.server.post(&join("none"), Some(&three.bob), json!({})).await), (404, "M_NOT_FOUND"));
    assert_eq!(
        refusal(&three.server.post("/_matrix/client/v3/join/nothing", Some(&three.bob), json!({})).await),
        (400, "M_INVALID_PARAM")
    );

    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.join_rules", three.room);
    assert_eq!(three.server.put(&path, Some(&three.alice), json!({ "join_rule": "knock" })).await.0, StatusCode::OK);
    let carol = three.server.register("carol").await;
    let knocked = three
        .server
        .post("/_matrix/client/v3/knock/%23lounge:chappe.example", Some(&carol), json!({ "reason": "please" }))
        .await;
    assert_eq!(knocked.0, StatusCode::OK, "{}", knocked.1);
    assert_eq!(three.membership("carol").await, "knock");
}

#[tokio::test]
async fn members_are_listed_by_membership_and_by_token() {
    let three = room(json!({ "preset": "public_chat", "invite": ["@carol:chappe.example"] })).await;
    let name = json!({ "displayname": "Bobby" });
    three.server.put("/_matrix/client/v3/profile/@bob:chappe.example/displayname", Some(&three.bob), name).await;
    let before = three
        .server
        .get(&format!("/_matrix/client/v3/rooms/{}/messages?dir=b", three.room), Some(&three.alice))
        .await
        .1;
    three.act(&three.bob, "join", JsonValue::Null).await;
    let members = async |query: &str| {
        let path = format!("/_matrix/client/v3/rooms/{}/members{query}", three.room);
        let (status, answer) = three.server.get(&path, Some(&three.alice)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let mut users: Vec<_> = answer["chunk"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["state_key"].as_str().unwrap().to_owned())
            .collect();
        users.sort();
        users.join(" ")
    };
    assert_eq!(members("").await, "@alice:chappe.example @bob:chappe.example @carol:chappe.example");
    assert_eq!(members("?membership=invite").await, "@carol:chappe.example");
    assert_eq!(members("?not_membership=join").await, "@carol:chappe.example");
    let at = format!("?membership=join&at={}", before["start"].as_str().unwrap());
    assert_eq!(members(&at).await, "@alice:chappe.example");

    let path = format!("/_matrix/client/v3/rooms/{}/joined_members", three.room);
    let joined = three.server.get(&path, Some(&three.bob)).await.1;
    assert_eq!(joined["joined"]["@bob:chappe.example"]["display_name"], "Bobby");
    assert_eq!(joined["joined"].as_object().unwrap().len(), 2);
    let carol = three.server.register("carol").await;
    assert_eq!(refusal(&three.server.get(&path, Some(&carol)).await), (403, "M_FORBIDDEN"));
    assert_eq!(refusal(&three.server.get(&path, None).await), (401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn join_takes_along_what_its_body_says() {
    let three = room(json!({ "preset": "public_chat" })).await;
    let refused = three.act(&three.bob, "join", json!({ "reason": 1 })).await;
    assert_eq!(refusal(&refused), (400, "M_BAD_JSON"));
    let refused =
        three.act(&three.bob, "join", json!({ "third_party_signed": { "mxid": "@bob:chappe.example" } })).await;
    assert_eq!(refusal(&refused), (400, "M_BAD_JSON"));
    let word =
        json!({ "mxid": "@bob:chappe.example", "sender": "@alice:chappe.example", "token": "t", "signatures": {} });
    let refused = three.act(&three.bob, "join", json!({ "third_party_signed": word })).await;
    assert_eq!(refusal(&refused), (403, "M_FORBIDDEN"));
    let path = format!("/_matrix/client/v3/join/{}", three.room);
    let joined = three.server.post(&path, Some(&three.bob), json!({ "foo": "bar", "membership": "ban" })).await;
    assert_eq!(joined.0, StatusCode::OK, "{}", joined.1);
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.member/@bob:chappe.example", three.room);
    let member = three.server.get(&path, Some(&three.alice)).await.1;
    assert_eq!((&member["membership"], &member["foo"]), (&json!("join"), &json!("bar")));
}

#[tokio::test]
async fn blocked_invites_are_refused_and_ignored_ones_are_not_shown() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let (_, created) = server.post("/_matrix/client/v3/createRoom", Some(&alice), json!({})).await;
    let room = created["room_id"].as_str().unwrap();
    let invite = format!("/_matrix/client/v3/rooms/{room}/invite");
    let invited = json!({ "user_id": "@bob:chappe.example" });
    let data = "/_matrix/client/v3/user/@bob:chappe.example/account_data";

    let blocking = json!({ "default_action": "block" });
    server.put(&format!("{data}/m.invite_permission_config"), Some(&bob), blocking).await;
    let (status, answer) = server.post(&invite, Some(&alice), invited.clone()).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &"M_INVITE_BLOCKED".into()));
    let state = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/@bob:chappe.example");
    let (status, answer) = server.put(&state, Some(&alice), json!({ "membership": "invite" })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &"M_INVITE_BLOCKED".into()));
    let with_bob = json!({ "invite": ["@bob:chappe.example"] });
    assert_eq!(server.post("/_matrix/client/v3/createRoom", Some(&alice), with_bob).await.0, StatusCode::OK);

    server.put(&format!("{data}/m.invite_permission_config"), Some(&bob), json!({})).await;
    let ignoring = json!({ "ignored_users": ["@alice:*"] });
    server.put(&format!("{data}/org.matrix.msc4155.invite_permission_config"), Some(&bob), ignoring).await;
    assert_eq!(server.post(&invite, Some(&alice), invited).await.0, StatusCode::OK);
    let (_, synced) = server.get("/_matrix/client/v3/sync", Some(&bob)).await;
    assert!(synced["rooms"].get("invite").is_none(), "{synced}");
}

#[tokio::test]
async fn mutual_rooms_are_those_both_are_joined_to() {
    let three = room(json!({ "preset": "public_chat" })).await;
    let path = |user: &str| format!("/_matrix/client/v1/mutual_rooms?user_id={user}");
    let with_bob = path("@bob:chappe.example");
    let none = three.server.get(&with_bob, Some(&three.alice)).await;
    assert_eq!(none, (StatusCode::OK, json!({ "joined": [], "count": 0 })));
    three.act(&three.bob, "join", JsonValue::Null).await;
    let expected = json!({ "joined": [three.room], "count": 1 });
    assert_eq!(three.server.get(&with_bob, Some(&three.alice)).await, (StatusCode::OK, expected.clone()));
    let unstable = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms?user_id=@bob:chappe.example";
    assert_eq!(three.server.get(unstable, Some(&three.alice)).await.1, expected);
    let further = format!("{with_bob}&from={}", three.room);
    assert_eq!(three.server.get(&further, Some(&three.alice)).await.1["joined"], json!([]));

    assert_eq!(refusal(&three.server.get(&with_bob, None).await), (401, "M_MISSING_TOKEN"));
    let refused = (400, "M_INVALID_PARAM");
    for path in [path("@alice:chappe.example"), path("nonsense"), path(""), format!("{with_bob}&from=nonsense")] {
        assert_eq!(refusal(&three.server.get(&path, Some(&three.alice)).await), refused, "{path}");
    }
    let unknown = three.server.get(&path("@nobody:elsewhere.example"), Some(&three.alice)).await;
    assert_eq!(unknown, (StatusCode::OK, json!({ "joined": [], "count": 0 })));
}
