use chappe_services::app_services::{NamespaceDraft, Registration, RegistrationDraft, Registrations};
use http::StatusCode;
use ruma::server_name;
use serde_json::{Value as JsonValue, json};

use crate::test_app::{TestApp, TestConfig};

const REGISTER: &str = "/_matrix/client/v3/register";
const TOKEN: Option<&str> = Some("irc-token");

/// A server with one service, `irc`, that has `@_irc_.*` and `#irc_.*` for itself, and no URL.
fn server() -> TestApp {
    server_with(RegistrationDraft::default())
}

/// The same, where the draft says more about the service.
fn server_with(draft: RegistrationDraft) -> TestApp {
    let namespace = |regex: &str| vec![NamespaceDraft { exclusive: true, regex: regex.to_owned() }];
    let draft = RegistrationDraft {
        id: "irc".to_owned(),
        as_token: "irc-token".to_owned(),
        hs_token: "to-irc".to_owned(),
        sender_localpart: "_irc_bot".to_owned(),
        users: namespace("@_irc_.*"),
        aliases: namespace("#irc_.*"),
        ..draft
    };
    let registration = Registration::new(server_name!("chappe.example"), draft).unwrap();
    let mut config = TestConfig::default();
    config.accounts.app_services = Registrations::new(vec![registration]).unwrap();
    TestApp::with(config)
}

async fn register_for(server: &TestApp, username: &str) -> (StatusCode, JsonValue) {
    let request = json!({ "type": "m.login.application_service", "username": username, "device_id": "GHOST" });
    server.post(REGISTER, TOKEN, request).await
}

fn refusal((status, answer): &(StatusCode, JsonValue)) -> (u16, &str) {
    (status.as_u16(), answer["errcode"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn service_registers_and_logs_in_its_own_users_only() {
    let server = server();
    let (status, answer) = register_for(&server, "_irc_bob").await;
    assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!("@_irc_bob:chappe.example")), "{answer}");
    let own = answer["access_token"].as_str().unwrap().to_owned();
    let (_, answer) = server.get("/_matrix/client/v3/account/whoami", Some(&own)).await;
    assert_eq!(answer["device_id"], "GHOST");
    assert_eq!(refusal(&register_for(&server, "_irc_bob").await), (400, "M_USER_IN_USE"));
    assert_eq!(refusal(&register_for(&server, "somebody").await), (400, "M_EXCLUSIVE"));
    let as_somebody = json!({ "type": "m.login.application_service", "username": "_irc_eve" });
    assert_eq!(refusal(&server.post(REGISTER, None, as_somebody.clone()).await), (401, "M_MISSING_TOKEN"));
    assert_eq!(refusal(&server.post(REGISTER, Some("guess"), as_somebody).await), (401, "M_UNKNOWN_TOKEN"));

    let login = |user: &str| json!({ "type": "m.login.application_service", "identifier": { "type": "m.id.user", "user": user } });
    let (status, answer) = server.post("/_matrix/client/v3/login", TOKEN, login("_irc_bob")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let alice = server.register("alice").await;
    let refused = server.post("/_matrix/client/v3/login", TOKEN, login("alice")).await;
    assert_eq!(refusal(&refused), (400, "M_EXCLUSIVE"));
    let refused = server.post("/_matrix/client/v3/login", Some(&alice), login("_irc_bob")).await;
    assert_eq!(refusal(&refused), (403, "M_FORBIDDEN"));
    let refused = server.post("/_matrix/client/v3/login", TOKEN, login("_irc_nobody")).await;
    assert_eq!(refusal(&refused), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn names_of_a_service_are_closed_to_everybody_else() {
    let server = server();
    let request = json!({ "username": "_irc_eve", "password": "x", "auth": { "type": "m.login.dummy" } });
    assert_eq!(refusal(&server.post(REGISTER, None, request).await), (400, "M_EXCLUSIVE"));
    let asked = server.get("/_matrix/client/v3/register/available?username=_irc_eve", None).await;
    assert_eq!(refusal(&asked), (400, "M_EXCLUSIVE"));

    let alice = server.register("alice").await;
    let (_, room) = server.post("/_matrix/client/v3/createRoom", Some(&alice), json!({})).await;
    let body = json!({ "room_id": room["room_id"] });
    let alias = "/_matrix/client/v3/directory/room/%23irc_chan:chappe.example";
    assert_eq!(refusal(&server.put(alias, Some(&alice), body).await), (400, "M_EXCLUSIVE"));
    let with_alias = json!({ "room_alias_name": "irc_chan" });
    let refused = server.post("/_matrix/client/v3/createRoom", Some(&alice), with_alias.clone()).await;
    assert_eq!(refusal(&refused), (400, "M_EXCLUSIVE"));

    register_for(&server, "_irc_bob").await;
    let by_service = "/_matrix/client/v3/createRoom?user_id=@_irc_bob:chappe.example";
    let (status, answer) = server.post(by_service, TOKEN, with_alias).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let other = server.post(by_service, TOKEN, json!({ "room_alias_name": "free" })).await;
    assert_eq!(refusal(&other), (400, "M_EXCLUSIVE"));
    let deleted = server.call(http::Method::DELETE, alias, TOKEN, JsonValue::Null).await;
    assert_eq!(deleted.0, StatusCode::FORBIDDEN, "the sender has no account before the server starts: {}", deleted.1);
    let deleted = server
        .call(http::Method::DELETE, &format!("{alias}?user_id=@_irc_bob:chappe.example"), TOKEN, JsonValue::Null)
        .await;
    assert_eq!(deleted.0, StatusCode::OK, "{}", deleted.1);
}

#[tokio::test]
async fn service_acts_as_its_users_and_their_devices() {
    let server = server();
    register_for(&server, "_irc_bob").await;
    let whoami = |query: &str| format!("/_matrix/client/v3/account/whoami?{query}");
    let bob = "user_id=@_irc_bob:chappe.example";
    let (status, answer) = server.get(&whoami(bob), TOKEN).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({ "user_id": "@_irc_bob:chappe.example" })));
    for name in ["device_id", "org.matrix.msc4326.device_id", "org.matrix.msc3202.device_id"] {
        let (_, answer) = server.get(&whoami(&format!("{bob}&{name}=GHOST")), TOKEN).await;
        assert_eq!(answer["device_id"], "GHOST", "{name}");
    }
    let refused = server.get(&whoami(&format!("{bob}&device_id=OTHER")), TOKEN).await;
    assert_eq!(refusal(&refused), (400, "M_UNKNOWN_DEVICE"));
    assert_eq!(refusal(&server.get(&whoami("user_id=@alice:chappe.example"), TOKEN).await), (403, "M_FORBIDDEN"));
    assert_eq!(refusal(&server.get(&whoami("user_id=@_irc_x:chappe.example"), TOKEN).await), (403, "M_FORBIDDEN"));
    let logout = format!("/_matrix/client/v3/logout?{bob}");
    assert_eq!(refusal(&server.post(&logout, TOKEN, json!({})).await), (403, "M_FORBIDDEN"));
    let keys = format!("/_matrix/client/v3/keys/upload?{bob}");
    assert_eq!(refusal(&server.post(&keys, TOKEN, json!({})).await), (400, "M_MISSING_PARAM"));
}

#[tokio::test]
async fn service_makes_and_deletes_devices_without_authentication() {
    let server = server();
    register_for(&server, "_irc_bob").await;
    let device = "/_matrix/client/v3/devices/NEW?user_id=@_irc_bob:chappe.example";
    let (status, answer) = server.put(device, TOKEN, json!({ "display_name": "bridge" })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, answer) = server.get(device, TOKEN).await;
    assert_eq!(answer["display_name"], "bridge");
    let (status, answer) = server.call(http::Method::DELETE, device, TOKEN, json!({})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(refusal(&server.get(device, TOKEN).await), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn timestamps_are_taken_from_services_only() {
    let server = server();
    let (_, answer) = register_for(&server, "_irc_bob").await;
    let own = answer["access_token"].as_str().unwrap().to_owned();
    let bob = "user_id=@_irc_bob:chappe.example";
    let (_, room) = server.post(&format!("/_matrix/client/v3/createRoom?{bob}"), TOKEN, json!({})).await;
    let room_id = room["room_id"].as_str().unwrap();
    let text = json!({ "msgtype": "m.text", "body": "old news" });
    for (token, query, expected) in
        [(TOKEN, format!("{bob}&ts=1234"), 1234), (Some(own.as_str()), "ts=1234".to_owned(), 1_700_000_000_000_u64)]
    {
        let path = format!("/_matrix/client/v3/rooms/{room_id}/send/m.room.message/{expected}?{query}");
        let (_, sent) = server.put(&path, token, text.clone()).await;
        let event = sent["event_id"].as_str().unwrap();
        let (_, event) = server.get(&format!("/_matrix/client/v3/rooms/{room_id}/event/{event}"), Some(&own)).await;
        assert_eq!(event["origin_server_ts"], expected);
    }
    let path = format!("/_matrix/client/v3/rooms/{room_id}/state/m.room.topic?{bob}&ts=77");
    let (_, sent) = server.put(&path, TOKEN, json!({ "topic": "x" })).await;
    let event = sent["event_id"].as_str().unwrap();
    let (_, event) = server.get(&format!("/_matrix/client/v3/rooms/{room_id}/event/{event}"), Some(&own)).await;
    assert_eq!(event["origin_server_ts"], 77);
}

#[tokio::test]
async fn ping_is_for_the_service_itself_and_needs_a_url() {
    let server = server();
    let ping = "/_matrix/client/v1/appservice/irc/ping";
    assert_eq!(refusal(&server.post(ping, TOKEN, json!({})).await), (400, "M_URL_NOT_SET"));
    assert_eq!(refusal(&server.post(ping, None, json!({})).await), (401, "M_MISSING_TOKEN"));
    let other = "/_matrix/client/v1/appservice/xmpp/ping";
    assert_eq!(refusal(&server.post(other, TOKEN, json!({})).await), (403, "M_FORBIDDEN"));
    let alice = server.register("alice").await;
    assert_eq!(refusal(&server.post(ping, Some(&alice), json!({})).await), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn rooms_of_a_network_are_listed_for_those_who_ask_for_it() {
    let server = server();
    let alice = server.register("alice").await;
    let (_, room) = server.post("/_matrix/client/v3/createRoom", Some(&alice), json!({})).await;
    let room_id = room["room_id"].as_str().unwrap();
    let list = format!("/_matrix/client/v3/directory/list/appservice/freenode/{room_id}");
    let public = json!({ "visibility": "public" });
    assert_eq!(refusal(&server.put(&list, Some(&alice), public.clone()).await), (403, "M_FORBIDDEN"));
    let unknown = "/_matrix/client/v3/directory/list/appservice/freenode/!nowhere:chappe.example";
    assert_eq!(refusal(&server.put(unknown, TOKEN, public.clone()).await), (404, "M_NOT_FOUND"));
    assert_eq!(server.put(&list, TOKEN, public).await.0, StatusCode::OK);

    let ask = |body: JsonValue| {
        let (server, alice) = (&server, &alice);
        async move {
            let (_, answer) = server.post("/_matrix/client/v3/publicRooms", Some(alice), body).await;
            answer["chunk"].as_array().unwrap().len()
        }
    };
    assert_eq!(ask(json!({})).await, 0, "it is not in Matrix's own list");
    assert_eq!(ask(json!({ "third_party_instance_id": "irc|freenode" })).await, 1);
    assert_eq!(ask(json!({ "include_all_networks": true })).await, 1);
    server.put(&list, TOKEN, json!({ "visibility": "private" })).await;
    assert_eq!(ask(json!({ "third_party_instance_id": "irc|freenode" })).await, 0);
}

#[tokio::test]
async fn networks_that_nobody_bridges_are_not_found() {
    let server = server();
    let alice = server.register("alice").await;
    let path = "/_matrix/client/v3/thirdparty";
    let (status, answer) = server.get(&format!("{path}/protocols"), Some(&alice)).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({})));
    assert_eq!(refusal(&server.get(&format!("{path}/protocol/irc"), Some(&alice)).await), (404, "M_NOT_FOUND"));
    assert_eq!(refusal(&server.get(&format!("{path}/protocols"), None).await), (401, "M_MISSING_TOKEN"));
    for lookup in ["user/irc?nick=bob", "location/irc?channel=x"] {
        assert_eq!(refusal(&server.get(&format!("{path}/{lookup}"), Some(&alice)).await), (404, "M_NOT_FOUND"));
    }
    for lookup in ["user?userid=@a:b.example", "location?alias=%23a:b.example"] {
        assert_eq!(
            server.get(&format!("{path}/{lookup}"), Some(&alice)).await,
            (StatusCode::OK, json!([])),
            "{lookup}"
        );
    }
    for lookup in ["user", "location"] {
        let refused = server.get(&format!("{path}/{lookup}"), Some(&alice)).await;
        assert_eq!(refusal(&refused), (400, "M_MISSING_PARAM"));
        let malformed = format!("{path}/{lookup}?userid=x&alias=x");
        assert_eq!(refusal(&server.get(&malformed, Some(&alice)).await), (400, "M_INVALID_PARAM"));
    }
}

/// A service that answers pings, and knows one person and one room of its network.
async fn start_service() -> String {
    let answer = |request: axum::extract::Request| async move {
        axum::Json(match request.uri().path() {
            "/_matrix/app/v1/ping" => json!({}),
            "/_matrix/app/v1/thirdparty/protocol/irc" => {
                json!({ "user_fields": ["nick"], "instances": [{ "network_id": "net" }] })
            }
            "/_matrix/app/v1/thirdparty/user/irc" | "/_matrix/app/v1/thirdparty/user" => {
                json!([{ "userid": "@_irc_bob:chappe.example", "protocol": "irc", "fields": { "asked": request.uri().query() } }])
            }
            "/_matrix/app/v1/thirdparty/location/irc" | "/_matrix/app/v1/thirdparty/location" => {
                json!([{ "alias": "#irc_a:chappe.example", "protocol": "irc", "fields": { "asked": request.uri().query() } }])
            }
            _ => json!(null),
        })
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await });
    url
}

#[tokio::test]
async fn service_is_pinged_and_asked_about_its_network() {
    let url = Some(start_service().await);
    let server = server_with(RegistrationDraft { url, protocols: vec!["irc".to_owned()], ..Default::default() });
    let (status, answer) = server.post("/_matrix/client/v1/appservice/irc/ping", TOKEN, json!({})).await;
    assert_eq!((status, answer["duration_ms"].is_u64()), (StatusCode::OK, true), "{answer}");

    let alice = server.register("alice").await;
    let ask = async |path: &str| {
        let (status, answer) = server.get(&format!("/_matrix/client/v3/thirdparty/{path}"), Some(&alice)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    };
    assert_eq!(ask("protocol/irc").await["instances"][0]["network_id"], "net");
    assert_eq!(ask("protocols").await["irc"]["user_fields"], json!(["nick"]));
    for (path, field, value, query) in [
        ("user/irc?nick=bob&access_token=secret", "userid", "@_irc_bob:chappe.example", "nick=bob"),
        (
            "user?userid=@_irc_bob:chappe.example",
            "userid",
            "@_irc_bob:chappe.example",
            "userid=%40_irc_bob%3Achappe.example",
        ),
        ("location/irc?channel=a", "alias", "#irc_a:chappe.example", "channel=a"),
        ("location?alias=%23irc_a:chappe.example", "alias", "#irc_a:chappe.example", "alias=%23irc_a%3Achappe.example"),
    ] {
        let found = ask(path).await;
        assert_eq!((&found[0][field], &found[0]["fields"]["asked"]), (&json!(value), &json!(query)), "{found}");
    }
}
