use http::StatusCode;
use serde_json::{Value as JsonValue, json};

use crate::test_app::TestApp;

async fn create(server: &TestApp, token: &str, body: JsonValue) -> String {
    let (status, answer) = server.post("/_matrix/client/v3/createRoom", Some(token), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["room_id"].as_str().unwrap().to_owned()
}

async fn state(server: &TestApp, token: &str, room: &str, key: &str) -> (StatusCode, JsonValue) {
    server.get(&format!("/_matrix/client/v3/rooms/{room}/state/{key}"), Some(token)).await
}

fn refusal((status, body): &(StatusCode, JsonValue)) -> (u16, &str) {
    (status.as_u16(), body["errcode"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn room_is_created_as_its_creator_asks() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    server.register("bob").await;
    let room = create(
        &server,
        &alice,
        json!({
            "preset": "public_chat", "visibility": "public", "name": "Lounge", "topic": "Talk", "room_alias_name": "lounge",
            "room_version": "11", "invite": ["@bob:chappe.example"], "is_direct": true,
            "creation_content": { "type": "m.space", "room_version": "1" },
            "initial_state": [{ "type": "org.example.test", "content": { "a": 1 } }],
            "power_level_content_override": { "invite": 77 },
        }),
    )
    .await;
    assert_eq!(state(&server, &alice, &room, "m.room.name").await.1, json!({ "name": "Lounge" }));
    assert_eq!(state(&server, &alice, &room, "m.room.join_rules/").await.1, json!({ "join_rule": "public" }));
    assert_eq!(state(&server, &alice, &room, "org.example.test").await.1, json!({ "a": 1 }));
    assert_eq!(
        state(&server, &alice, &room, "m.room.canonical_alias").await.1,
        json!({ "alias": "#lounge:chappe.example" })
    );
    assert_eq!(state(&server, &alice, &room, "m.room.power_levels").await.1["invite"], 77);
    let create_event = state(&server, &alice, &room, "m.room.create?format=event").await.1;
    assert_eq!(create_event["content"]["type"], "m.space");
    assert_eq!(create_event["content"]["room_version"], "11");
    assert_eq!(create_event["sender"], "@alice:chappe.example");
    let invite = state(&server, &alice, &room, "m.room.member/@bob:chappe.example").await.1;
    assert_eq!((invite["membership"].as_str(), invite["is_direct"].as_bool()), (Some("invite"), Some(true)));
}

#[tokio::test]
async fn rooms_made_alike_at_the_same_time_are_two() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    assert_ne!(create(&server, &alice, json!({})).await, create(&server, &alice, json!({})).await);
}

#[tokio::test]
async fn malformed_requests_create_no_room() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let path = "/_matrix/client/v3/createRoom";
    for (body, errcode) in [
        (json!({ "room_version": 1 }), "M_BAD_JSON"),
        (json!({ "room_version": "no-such-version" }), "M_UNSUPPORTED_ROOM_VERSION"),
        (json!({ "preset": "no such preset" }), "M_BAD_JSON"),
        (json!({ "room_alias_name": "with space" }), "M_INVALID_PARAM"),
        (json!({ "initial_state": [{ "content": {} }] }), "M_BAD_JSON"),
        (json!({ "invite": ["nobody"] }), "M_BAD_JSON"),
    ] {
        let answer = server.post(path, Some(&alice), body.clone()).await;
        assert_eq!(refusal(&answer), (400, errcode), "{body}");
    }
    let third_party = json!({ "invite_3pid": [{ "id_server": "id.example", "id_access_token": "x", "medium": "email", "address": "a@b.example" }] });
    assert_eq!(refusal(&server.post(path, Some(&alice), third_party).await), (403, "M_THREEPID_DENIED"));
    assert_eq!(refusal(&server.post(path, None, json!({})).await), (401, "M_MISSING_TOKEN"));
    create(&server, &alice, json!({ "room_alias_name": "taken" })).await;
    let again = server.post(path, Some(&alice), json!({ "room_alias_name": "taken" })).await;
    assert_eq!(refusal(&again), (400, "M_ROOM_IN_USE"));
}

#[tokio::test]
async fn state_is_for_members_and_as_it_was_for_those_who_left() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = create(&server, &alice, json!({ "preset": "public_chat", "name": "Before" })).await;
    assert_eq!(refusal(&state(&server, &bob, &room, "m.room.name").await), (403, "M_FORBIDDEN"));
    assert_eq!(refusal(&state(&server, &bob, "!unknown:chappe.example", "m.room.name").await), (403, "M_FORBIDDEN"));
    assert_eq!(
        server.post(&format!("/_matrix/client/v3/join/{room}"), Some(&bob), JsonValue::Null).await.0,
        StatusCode::OK
    );
    assert_eq!(
        server.post(&format!("/_matrix/client/v3/rooms/{room}/leave"), Some(&bob), JsonValue::Null).await.0,
        StatusCode::OK
    );
    let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.name");
    assert_eq!(server.put(&path, Some(&alice), json!({ "name": "After" })).await.0, StatusCode::OK);
    assert_eq!(state(&server, &alice, &room, "m.room.name").await.1["name"], "After");
    assert_eq!(state(&server, &bob, &room, "m.room.name").await.1["name"], "Before");
    assert_eq!(refusal(&state(&server, &alice, &room, "m.room.topic").await), (404, "M_NOT_FOUND"));
    let (status, whole) = server.get(&format!("/_matrix/client/v3/rooms/{room}/state"), Some(&bob)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(whole.as_array().unwrap().iter().any(|event| event["type"] == "m.room.create"));
}

#[tokio::test]
async fn everyone_sees_the_state_of_a_world_readable_room() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let visible =
        json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "world_readable" } }]);
    let room = create(&server, &alice, json!({ "name": "Open", "initial_state": visible })).await;
    assert_eq!(state(&server, &bob, &room, "m.room.name").await.1["name"], "Open");
}

#[tokio::test]
async fn state_is_written_only_with_the_power_for_it() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = create(&server, &alice, json!({ "preset": "public_chat" })).await;
    let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.topic/");
    assert_eq!(refusal(&server.put(&path, Some(&bob), json!({ "topic": "no" })).await), (403, "M_FORBIDDEN"));
    server.post(&format!("/_matrix/client/v3/join/{room}"), Some(&bob), JsonValue::Null).await;
    assert_eq!(refusal(&server.put(&path, Some(&bob), json!({ "topic": "no" })).await), (403, "M_FORBIDDEN"));
    let levels = format!("/_matrix/client/v3/rooms/{room}/state/m.room.power_levels");
    assert_eq!(refusal(&server.put(&levels, Some(&alice), json!({ "ban": "50" })).await), (400, "M_BAD_JSON"));
    let acl = format!("/_matrix/client/v3/rooms/{room}/state/m.room.server_acl");
    assert_eq!(
        server.put(&acl, Some(&alice), json!({ "allow": ["elsewhere.example"] })).await.0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn canonical_alias_must_exist_and_mean_the_room() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let room = create(&server, &alice, json!({ "room_alias_name": "one" })).await;
    create(&server, &alice, json!({ "room_alias_name": "other" })).await;
    let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.canonical_alias");
    let set = async |content: JsonValue| server.put(&path, Some(&alice), content).await;
    assert_eq!(set(json!({ "alias": "#one:chappe.example", "alt_aliases": [] })).await.0, StatusCode::OK);
    assert_eq!(refusal(&set(json!({ "alias": "#none:chappe.example" })).await), (400, "M_BAD_ALIAS"));
    assert_eq!(refusal(&set(json!({ "alias": "#other:chappe.example" })).await), (400, "M_BAD_ALIAS"));
    assert_eq!(refusal(&set(json!({ "alt_aliases": ["no alias"] })).await), (400, "M_INVALID_PARAM"));
    // What was there before may stay, even if it no longer exists.
    let alias = "/_matrix/client/v3/directory/room/%23one:chappe.example";
    assert_eq!(server.call(http::Method::DELETE, alias, Some(&alice), JsonValue::Null).await.0, StatusCode::OK);
    assert_eq!(state(&server, &alice, &room, "m.room.canonical_alias").await.1.get("alias"), None);
}

#[tokio::test]
async fn memberships_can_be_set_as_state() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = create(&server, &alice, json!({})).await;
    let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/@bob:chappe.example");
    let invited = server.put(&path, Some(&alice), json!({ "membership": "invite" })).await;
    assert_eq!(invited.0, StatusCode::OK, "{}", invited.1);
    let joined = server.put(&path, Some(&bob), json!({ "membership": "join", "displayname": "Bobby" })).await;
    assert!(joined.1["event_id"].as_str().unwrap().starts_with('$'), "{}", joined.1);
    assert_eq!(state(&server, &bob, &room, "m.room.member/@bob:chappe.example").await.1["displayname"], "Bobby");
    assert_eq!(refusal(&server.put(&path, Some(&bob), json!({})).await), (400, "M_BAD_JSON"));
    assert_eq!(
        refusal(&server.put(&path, Some(&bob), json!({ "membership": "elsewhere" })).await),
        (400, "M_BAD_JSON")
    );
}

#[tokio::test]
async fn single_events_are_shown_to_those_who_may_see_them() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = create(&server, &alice, json!({})).await;
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    let sent = server.put(&path, Some(&alice), json!({ "msgtype": "m.text", "body": "hello" })).await.1;
    let path = format!("/_matrix/client/v3/rooms/{room}/event/{}", sent["event_id"].as_str().unwrap());
    let event = server.get(&path, Some(&alice)).await.1;
    assert_eq!(event["content"]["body"], "hello");
    assert_eq!(event["unsigned"]["transaction_id"], "1");
    assert_eq!(refusal(&server.get(&path, Some(&bob)).await), (404, "M_NOT_FOUND"));
    assert_eq!(refusal(&server.get(&path, None).await), (401, "M_MISSING_TOKEN"));
}

async fn upgrade(server: &TestApp, token: Option<&str>, room: &str, body: JsonValue) -> (StatusCode, JsonValue) {
    server.post(&format!("/_matrix/client/v3/rooms/{room}/upgrade"), token, body).await
}

#[tokio::test]
async fn upgraded_room_points_to_its_replacement_which_takes_over_state_aliases_and_listing() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for (from, to) in [("9", "11"), ("11", "12"), ("12", "12"), ("12", "11")] {
        let alias = format!("lounge-{from}-{to}");
        let body = json!({
            "preset": "public_chat", "visibility": "public", "name": "Lounge", "room_version": from,
            "room_alias_name": alias, "creation_content": { "type": "m.space" },
            "initial_state": [{ "type": "m.space.child", "state_key": "!c:chappe.example", "content": { "via": ["a"] } }],
        });
        let old = create(&server, &alice, body).await;
        server.post(&format!("/_matrix/client/v3/join/{old}"), Some(&bob), json!({})).await;
        let target = json!({ "user_id": "@bob:chappe.example", "reason": "noise" });
        server.post(&format!("/_matrix/client/v3/rooms/{old}/ban"), Some(&alice), target).await;
        let (status, answer) = upgrade(&server, Some(&alice), &old, json!({ "new_version": to })).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let new = answer["replacement_room"].as_str().unwrap();

        let tombstone = state(&server, &alice, &old, "m.room.tombstone?format=event").await.1;
        assert_eq!(tombstone["content"]["replacement_room"], new);
        let creation = state(&server, &alice, new, "m.room.create").await.1;
        assert_eq!((&creation["room_version"], &creation["type"]), (&json!(to), &json!("m.space")));
        assert_eq!(creation["predecessor"]["room_id"], old);
        let named = creation["predecessor"].get("event_id");
        assert_eq!(named, (to != "12").then(|| &tombstone["event_id"]), "{from} to {to}");
        assert_eq!(state(&server, &alice, new, "m.room.name").await.1["name"], "Lounge");
        assert_eq!(state(&server, &alice, new, "m.room.join_rules").await.1["join_rule"], "public");
        assert_eq!(state(&server, &alice, new, "m.space.child/!c:chappe.example").await.1["via"], json!(["a"]));
        let banned = state(&server, &alice, new, "m.room.member/@bob:chappe.example").await.1;
        assert_eq!((&banned["membership"], &banned["reason"]), (&json!("ban"), &json!("noise")));

        let alias = format!("#{alias}:chappe.example");
        let found =
            server.get(&format!("/_matrix/client/v3/directory/room/{}", alias.replace('#', "%23")), None).await.1;
        assert_eq!(found["room_id"], new);
        assert_eq!(state(&server, &alice, new, "m.room.canonical_alias").await.1["alias"], alias);
        assert_eq!(state(&server, &alice, &old, "m.room.canonical_alias").await.1, json!({}));
        let listed = async |room: &str| {
            server.get(&format!("/_matrix/client/v3/directory/list/room/{room}"), None).await.1["visibility"].clone()
        };
        assert_eq!((listed(new).await, listed(&old).await), (json!("public"), json!("private")));

        let old_levels = state(&server, &alice, &old, "m.room.power_levels").await.1;
        assert_eq!((&old_levels["events_default"], &old_levels["invite"]), (&json!(50), &json!(50)));
        let new_levels = state(&server, &alice, new, "m.room.power_levels").await.1;
        assert_eq!(new_levels["events_default"], 0);
        let level = new_levels["users"].get("@alice:chappe.example").and_then(JsonValue::as_i64);
        assert_eq!(level.is_none(), to == "12", "{from} to {to}: {new_levels}");
        let renamed = server
            .put(&format!("/_matrix/client/v3/rooms/{new}/state/m.room.name"), Some(&alice), json!({ "name": "New" }))
            .await;
        assert_eq!(renamed.0, StatusCode::OK, "{}", renamed.1);
    }
}

#[tokio::test]
async fn upgrade_by_a_moderator_does_what_the_moderator_may_do_in_the_old_room() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let levels = json!({ "users": { "@alice:chappe.example": 100, "@bob:chappe.example": 50 }, "events": {
        "m.room.tombstone": 50, "m.room.power_levels": 100, "m.room.canonical_alias": 100 } });
    let body = json!({ "preset": "public_chat", "room_version": "11", "room_alias_name": "lounge",
        "power_level_content_override": levels });
    let old = create(&server, &alice, body).await;
    server.post(&format!("/_matrix/client/v3/join/{old}"), Some(&bob), json!({})).await;
    let request = json!({ "new_version": "12", "additional_creators": ["@carol:chappe.example"] });
    let (status, answer) = upgrade(&server, Some(&bob), &old, request).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let new = answer["replacement_room"].as_str().unwrap();
    assert_eq!(state(&server, &alice, &old, "m.room.power_levels").await.1["events_default"], 0);
    assert_eq!(state(&server, &alice, &old, "m.room.canonical_alias").await.1["alias"], "#lounge:chappe.example");
    let creation = state(&server, &bob, new, "m.room.create").await.1;
    assert_eq!(creation["additional_creators"], json!(["@carol:chappe.example"]));
    let levels = state(&server, &bob, new, "m.room.power_levels").await.1;
    assert_eq!(levels["users"], json!({ "@alice:chappe.example": 100 }));
}

#[tokio::test]
async fn room_is_upgraded_only_by_those_who_may_and_to_versions_that_exist() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = create(&server, &alice, json!({ "preset": "public_chat" })).await;
    let body = json!({ "new_version": "12" });
    assert_eq!(refusal(&upgrade(&server, None, &room, body.clone()).await), (401, "M_MISSING_TOKEN"));
    assert_eq!(refusal(&upgrade(&server, Some(&bob), &room, body.clone()).await), (403, "M_FORBIDDEN"));
    server.post(&format!("/_matrix/client/v3/join/{room}"), Some(&bob), json!({})).await;
    assert_eq!(refusal(&upgrade(&server, Some(&bob), &room, body.clone()).await), (403, "M_FORBIDDEN"));
    let unknown = upgrade(&server, Some(&alice), "!unknown:chappe.example", body).await;
    assert_eq!(refusal(&unknown), (403, "M_FORBIDDEN"));
    assert_eq!(refusal(&upgrade(&server, Some(&alice), &room, json!({})).await), (400, "M_BAD_JSON"));
    let version = upgrade(&server, Some(&alice), &room, json!({ "new_version": "no-such-version" })).await;
    assert_eq!(refusal(&version), (400, "M_UNSUPPORTED_ROOM_VERSION"));
    assert_eq!(refusal(&state(&server, &alice, &room, "m.room.tombstone").await), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn tree_of_a_space_is_shown_in_pages_to_those_who_may_see_it() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let space =
        create(&server, &alice, json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } })).await;
    let child = create(&server, &alice, json!({ "preset": "public_chat", "name": "Child" })).await;
    let path = format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{child}");
    server.put(&path, Some(&alice), json!({ "via": ["chappe.example"] })).await;

    let hierarchy = async |token: Option<&str>, room: &str, query: &str| {
        server.get(&format!("/_matrix/client/v1/rooms/{room}/hierarchy?{query}"), token).await
    };
    let (status, page) = hierarchy(Some(&bob), &space, "limit=1").await;
    assert_eq!(status, StatusCode::OK, "{page}");
    assert_eq!((page["rooms"].as_array().unwrap().len(), &page["rooms"][0]["room_type"]), (1, &json!("m.space")));
    let link = &page["rooms"][0]["children_state"][0];
    assert_eq!((&link["type"], &link["state_key"]), (&json!("m.space.child"), &json!(child)));
    assert!(link["origin_server_ts"].is_u64() && link.get("event_id").is_none());
    let next = page["next_batch"].as_str().unwrap();
    let page = hierarchy(Some(&bob), &space, &format!("from={next}")).await.1;
    assert_eq!((&page["rooms"][0]["name"], page.get("next_batch")), (&json!("Child"), None));
    assert_eq!(page["rooms"][0]["children_state"], json!([]));

    assert_eq!(refusal(&hierarchy(None, &space, "").await), (401, "M_MISSING_TOKEN"));
    let secret = create(&server, &alice, json!({})).await;
    assert_eq!(refusal(&hierarchy(Some(&bob), &secret, "").await), (403, "M_FORBIDDEN"));
    assert_eq!(refusal(&hierarchy(Some(&bob), "!unknown:chappe.example", "").await), (403, "M_FORBIDDEN"));
    for query in ["limit=0", "limit=many", "max_depth=-1", "from=nonsense", &format!("from={next}&max_depth=3")] {
        assert_eq!(refusal(&hierarchy(Some(&bob), &space, query).await), (400, "M_INVALID_PARAM"), "{query}");
    }
}

#[tokio::test]
async fn summary_of_a_room_is_told_to_those_who_could_join() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let open = create(
        &server,
        &alice,
        json!({ "preset": "public_chat", "name": "Open", "topic": "All", "room_alias_name": "open", "room_version": "11",
            "initial_state": [{ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }] }),
    )
    .await;
    let summary = async |token: Option<&str>, room: &str| {
        server.get(&format!("/_matrix/client/v1/room_summary/{room}"), token).await
    };
    let told = summary(None, "%23open:chappe.example").await.1;
    assert_eq!(
        told,
        json!({
            "room_id": open, "num_joined_members": 1, "world_readable": false, "guest_can_join": false, "join_rule": "public",
            "canonical_alias": "#open:chappe.example", "name": "Open", "topic": "All", "encryption": "m.megolm.v1.aes-sha2",
            "room_version": "11",
        })
    );
    assert_eq!(summary(Some(&alice), &open).await.1["membership"], "join");
    assert_eq!(summary(Some(&bob), &open).await.1["membership"], "leave");
    let unstable = format!("/_matrix/client/unstable/im.nheko.summary/rooms/{open}/summary");
    assert_eq!(server.get(&unstable, Some(&bob)).await.1["name"], "Open");

    let secret = create(&server, &alice, json!({})).await;
    assert_eq!(summary(Some(&alice), &secret).await.1.get("allowed_room_ids"), None);
    assert_eq!(refusal(&summary(Some(&bob), &secret).await), (404, "M_NOT_FOUND"));
    assert_eq!(refusal(&summary(None, &secret).await), (404, "M_NOT_FOUND"));
    assert_eq!(refusal(&summary(Some(&bob), "!unknown:chappe.example").await), (404, "M_NOT_FOUND"));
    assert_eq!(refusal(&summary(None, "!unknown:elsewhere.example").await), (401, "M_MISSING_TOKEN"));
    assert_eq!(refusal(&summary(None, "%23alias:elsewhere.example").await), (401, "M_MISSING_TOKEN"));
    assert_eq!(refusal(&summary(Some(&bob), "nonsense").await), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn event_closest_to_a_time_is_found_in_either_direction() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = create(&server, &alice, json!({ "preset": "public_chat" })).await;
    let send = async |id: &str| {
        let at = server.clock.advance(1_000);
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{id}");
        let sent = server.put(&path, Some(&alice), json!({ "msgtype": "m.text", "body": id })).await.1;
        (sent["event_id"].clone(), at)
    };
    let ((first, first_at), (second, second_at)) = (send("1").await, send("2").await);
    let find = async |token: Option<&str>, query: String| {
        server.get(&format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event?{query}"), token).await
    };
    let found = find(Some(&alice), format!("dir=f&ts={}", first_at - 500)).await.1;
    assert_eq!(found, json!({ "event_id": first, "origin_server_ts": first_at }));
    assert_eq!(find(Some(&alice), format!("dir=b&ts={}", first_at + 500)).await.1["event_id"], first);
    assert_eq!(find(Some(&alice), format!("dir=f&ts={}", first_at + 500)).await.1["event_id"], second);
    assert_eq!(refusal(&find(Some(&alice), format!("dir=f&ts={}", second_at + 1)).await), (404, "M_NOT_FOUND"));
    assert_eq!(refusal(&find(Some(&alice), "dir=b&ts=1".to_owned()).await), (404, "M_NOT_FOUND"));
    assert_eq!(refusal(&find(Some(&bob), "dir=f&ts=1".to_owned()).await), (403, "M_FORBIDDEN"));
    assert_eq!(refusal(&find(None, "dir=f&ts=1".to_owned()).await), (401, "M_MISSING_TOKEN"));
    for query in ["dir=f", "ts=1", "dir=x&ts=1", "dir=f&ts=now"] {
        assert_eq!(refusal(&find(Some(&alice), query.to_owned()).await), (400, "M_INVALID_PARAM"), "{query}");
    }
}

/// The endpoints of one room: method, path below it, and a body that would do.
fn endpoints_of_a_room() -> Vec<(http::Method, &'static str, JsonValue)> {
    use http::Method;
    let bob = json!({ "user_id": "@bob:chappe.example" });
    vec![
        (Method::GET, "aliases", JsonValue::Null),
        (Method::GET, "context/$event", JsonValue::Null),
        (Method::GET, "event/$event", JsonValue::Null),
        (Method::GET, "joined_members", JsonValue::Null),
        (Method::GET, "members", JsonValue::Null),
        (Method::GET, "messages?dir=b", JsonValue::Null),
        (Method::GET, "state", JsonValue::Null),
        (Method::GET, "state/m.room.name", JsonValue::Null),
        (Method::POST, "ban", bob.clone()),
        (Method::POST, "forget", json!({})),
        (Method::POST, "invite", bob.clone()),
        (Method::POST, "join", json!({})),
        (Method::POST, "kick", bob.clone()),
        (Method::POST, "leave", json!({})),
        (Method::POST, "unban", bob),
        (Method::POST, "upgrade", json!({ "new_version": "12" })),
        (Method::PUT, "redact/$event/1", json!({})),
        (Method::PUT, "send/m.room.message/1", json!({ "body": "x", "msgtype": "m.text" })),
        (Method::PUT, "state/m.room.name", json!({ "name": "x" })),
    ]
}

#[tokio::test]
async fn endpoints_of_a_room_want_a_token_and_somebody_who_may() {
    let server = TestApp::new();
    let (alice, carol) = (server.register("alice").await, server.register("carol").await);
    let room = create(&server, &alice, json!({})).await;
    for (method, path, body) in endpoints_of_a_room() {
        let own = format!("/_matrix/client/v3/rooms/{room}/{path}");
        let refused = server.call(method.clone(), &own, None, body.clone()).await;
        assert_eq!(refusal(&refused), (401, "M_MISSING_TOKEN"), "{path}");
        let (status, answer) = server.call(method.clone(), &own, Some(&carol), body.clone()).await;
        assert!([400, 403, 404].contains(&status.as_u16()), "{path}: {status} {answer}");
        let unknown = format!("/_matrix/client/v3/rooms/!unknown:chappe.example/{path}");
        let (status, answer) = server.call(method.clone(), &unknown, Some(&carol), body.clone()).await;
        assert!([403, 404].contains(&status.as_u16()), "{path}: {status} {answer}");
        let malformed = format!("/_matrix/client/v3/rooms/no-room-id/{path}");
        assert_eq!(
            refusal(&server.call(method, &malformed, Some(&alice), body).await),
            (400, "M_INVALID_PARAM"),
            "{path}"
        );
    }
}
