//! Of every endpoint a request that is right, as [`World`](super::world::World) has the things in it.
//!
//! What ends with `!` must not be left out. `{word}` stands for something that the world has made.

use serde_json::Value as JsonValue;

use super::{Endpoint, Name};

/// Queries of the endpoints that need one.
const QUERIES: &[(&str, &str, &str)] = &[
    ("DELETE", "/room_keys/keys", "version!={version}"),
    ("DELETE", "/room_keys/keys/{room_id}", "version!={version}"),
    ("DELETE", "/room_keys/keys/{room_id}/{session_id}", "version!={version}"),
    ("GET", "/auth/{auth_type}/fallback/web", "session!=abc"),
    ("GET", "/client/v1/media/thumbnail/{server_name}/{media_id}", "width!=32&height!=32"),
    ("GET", "/keys/changes", "from!={since}&to!={since}"),
    ("GET", "/media/v3/preview_url", "url!=https://page.example/"),
    ("GET", "/media/v3/thumbnail/{server_name}/{media_id}", "width!=32&height!=32"),
    ("GET", "/mutual_rooms", "user_id!=@bob:chappe.example"),
    ("GET", "/register/available", "username!=newcomer"),
    ("GET", "/register/m.login.registration_token/validity", "token!=ticket"),
    ("GET", "/room_keys/keys", "version!={version}"),
    ("GET", "/room_keys/keys/{room_id}", "version!={version}"),
    ("GET", "/room_keys/keys/{room_id}/{session_id}", "version!={version}"),
    ("GET", "/rooms/{room_id}/messages", "dir!=b&limit=5"),
    ("GET", "/rooms/{room_id}/timestamp_to_event", "ts!=1600000000000&dir!=f"),
    ("GET", "/thread_subscriptions", "dir!=b"),
    ("GET", "/thirdparty/location", "alias!=%23taken:chappe.example"),
    ("GET", "/thirdparty/user", "userid!=@bob:chappe.example"),
    ("POST", "/auth/{auth_type}/fallback/web", "session!=abc"),
    ("PUT", "/room_keys/keys", "version!={version}"),
    ("PUT", "/room_keys/keys/{room_id}", "version!={version}"),
    ("PUT", "/room_keys/keys/{room_id}/{session_id}", "version!={version}"),
];

const AUTH: &str =
    r#"{ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "secret" }"#;

/// Bodies of the endpoints that read JSON.
const BODIES: &[(&str, &str, &str)] = &[
    ("DELETE", "/devices/{device_id}", r#"{ "auth": {auth} }"#),
    ("POST", "/3pid/add", r#"{ "sid!": "sid", "client_secret!": "abcd", "auth": {auth} }"#),
    (
        "POST",
        "/3pid/bind",
        r#"{ "sid!": "sid", "client_secret!": "abcd", "id_server!": "id.example", "id_access_token!": "token" }"#,
    ),
    ("POST", "/3pid/delete", r#"{ "medium!": "email", "address!": "alice@mail.example" }"#),
    ("POST", "/3pid/unbind", r#"{ "medium!": "email", "address!": "alice@mail.example" }"#),
    ("POST", "/account/3pid", r#"{ "three_pid_creds!": { "sid": "sid", "client_secret": "abcd" } }"#),
    (
        "POST",
        "/account/3pid/email/requestToken",
        r#"{ "client_secret!": "abcd", "email!": "alice@mail.example", "send_attempt!": 1, "next_link": "https://next.example/" }"#,
    ),
    (
        "POST",
        "/account/3pid/msisdn/requestToken",
        r#"{ "client_secret!": "abcd", "country!": "GB", "phone_number!": "07700900001", "send_attempt!": 1 }"#,
    ),
    ("POST", "/account/deactivate", r#"{ "auth": {auth}, "erase": false }"#),
    ("POST", "/account/password", r#"{ "auth": {auth}, "new_password!": "a better secret", "logout_devices": false }"#),
    (
        "POST",
        "/account/password/email/requestToken",
        r#"{ "client_secret!": "abcd", "email!": "alice@mail.example", "send_attempt!": 1 }"#,
    ),
    (
        "POST",
        "/account/password/msisdn/requestToken",
        r#"{ "client_secret!": "abcd", "country!": "GB", "phone_number!": "07700900001", "send_attempt!": 1 }"#,
    ),
    ("POST", "/appservice/{appservice_id}/ping", r#"{ "transaction_id": "ping" }"#),
    (
        "POST",
        "/createRoom",
        r#"{ "creation_content": { "m.federate": true }, "initial_state": [], "invite": ["@bob:chappe.example"], "is_direct": true, "name": "Name", "power_level_content_override": {}, "preset": "private_chat", "room_alias_name": "fresh", "room_version": "11", "topic": "Topic", "visibility": "private" }"#,
    ),
    ("POST", "/dehydrated_device/{device_id}/events", "{}"),
    ("POST", "/delayed_events/{delay_id}", r#"{ "action!": "restart" }"#),
    ("POST", "/delete_devices", r#"{ "auth": {auth}, "devices!": ["OTHER"] }"#),
    (
        "POST",
        "/event_relationships",
        r#"{ "event_id!": "{event}", "direction": "down", "max_depth": 2, "max_breadth": 2, "limit": 2, "depth_first": false, "recent_first": true, "include_parent": false, "include_children": true }"#,
    ),
    ("POST", "/join/{room_id_or_alias}", r#"{ "reason": "why" }"#),
    (
        "POST",
        "/keys/claim",
        r#"{ "one_time_keys!": { "@bob:chappe.example": { "DEVICE": "signed_curve25519" } }, "timeout": 1000 }"#,
    ),
    (
        "POST",
        "/keys/device_signing/upload",
        r#"{ "auth": {auth}, "master_key": { "user_id": "@alice:chappe.example", "usage": ["master"], "keys": { "ed25519:{key}": "{key}" } } }"#,
    ),
    ("POST", "/keys/query", r#"{ "device_keys!": { "@bob:chappe.example": [] }, "timeout": 1000 }"#),
    ("POST", "/keys/signatures/upload", r#"{ "@alice:chappe.example": {} }"#),
    ("POST", "/keys/upload", r#"{ "one_time_keys": { "signed_curve25519:A": { "key": "a" } }, "fallback_keys": {} }"#),
    ("POST", "/knock/{room_id_or_alias}", r#"{ "reason": "why" }"#),
    (
        "POST",
        "/client/v3/login",
        r#"{ "type!": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "secret", "device_id": "NEW", "initial_device_display_name": "Phone", "refresh_token": true }"#,
    ),
    ("POST", "/login/get_token", r#"{ "auth": {auth} }"#),
    (
        "POST",
        "/org.matrix.simplified_msc3575/sync",
        r#"{ "conn_id": "main", "lists": {}, "room_subscriptions": {}, "extensions": {} }"#,
    ),
    (
        "POST",
        "/publicRooms",
        r#"{ "limit": 5, "filter": { "generic_search_term": "word" }, "include_all_networks": false }"#,
    ),
    (
        "POST",
        "/pushers/set",
        r#"{ "pushkey!": "key", "kind!": "http", "app_id!": "org.example.app", "app_display_name!": "App", "device_display_name!": "Phone", "lang!": "en", "data!": { "url": "https://push.example/_matrix/push/v1/notify" }, "append": false, "profile_tag": "tag" }"#,
    ),
    ("POST", "/refresh", r#"{ "refresh_token!": "{refresh}" }"#),
    (
        "POST",
        "/register",
        r#"{ "auth": { "type": "m.login.dummy" }, "username": "newcomer", "password": "a better secret", "device_id": "NEW", "initial_device_display_name": "Phone", "inhibit_login": false, "refresh_token": true }"#,
    ),
    (
        "POST",
        "/register/email/requestToken",
        r#"{ "client_secret!": "abcd", "email!": "newcomer@mail.example", "send_attempt!": 1 }"#,
    ),
    (
        "POST",
        "/register/msisdn/requestToken",
        r#"{ "client_secret!": "abcd", "country!": "GB", "phone_number!": "07700900001", "send_attempt!": 1 }"#,
    ),
    (
        "POST",
        "/room_keys/version",
        r#"{ "algorithm!": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data!": { "public_key": "abc", "signatures": {} } }"#,
    ),
    ("POST", "/rooms/{room_id}/ban", r#"{ "user_id!": "@bob:chappe.example", "reason": "why" }"#),
    ("POST", "/rooms/{room_id}/invite", r#"{ "user_id!": "@dave:chappe.example", "reason": "why" }"#),
    ("POST", "/rooms/{room_id}/join", r#"{ "reason": "why" }"#),
    ("POST", "/rooms/{room_id}/kick", r#"{ "user_id!": "@bob:chappe.example", "reason": "why" }"#),
    ("POST", "/rooms/{room_id}/leave", r#"{ "reason": "why" }"#),
    (
        "POST",
        "/rooms/{room_id}/read_markers",
        r#"{ "m.fully_read": "{event}", "m.read": "{event}", "m.read.private": "{event}" }"#,
    ),
    ("POST", "/rooms/{room_id}/receipt/{receipt_type}/{event_id}", r#"{ "thread_id": "main" }"#),
    ("POST", "/rooms/{room_id}/report", r#"{ "reason!": "why" }"#),
    ("POST", "/rooms/{room_id}/report/{event_id}", r#"{ "reason": "why", "score": -50 }"#),
    ("POST", "/rooms/{room_id}/unban", r#"{ "user_id!": "@eve:chappe.example", "reason": "why" }"#),
    ("POST", "/rooms/{room_id}/upgrade", r#"{ "new_version!": "11" }"#),
    ("POST", "/client/v3/search", r#"{ "search_categories!": { "room_events": { "search_term": "word" } } }"#),
    (
        "POST",
        "/user/{user_id}/filter",
        r#"{ "event_fields": ["type"], "event_format": "client", "presence": {}, "account_data": {}, "room": { "timeline": { "limit": 5 } } }"#,
    ),
    ("POST", "/user_directory/search", r#"{ "search_term!": "bob", "limit": 5 }"#),
    ("POST", "/users/{user_id}/report", r#"{ "reason!": "why" }"#),
    ("POST", "/v4/sync", r#"{ "conn_id": "main", "lists": {}, "room_subscriptions": {}, "extensions": {} }"#),
    ("PUT", "/admin/lock/{user_id}", r#"{ "locked!": true }"#),
    ("PUT", "/admin/suspend/{user_id}", r#"{ "suspended!": true }"#),
    ("PUT", "/devices/{device_id}", r#"{ "display_name": "Phone" }"#),
    ("PUT", "/directory/list/appservice/{network_id}/{room_id}", r#"{ "visibility!": "public" }"#),
    ("PUT", "/directory/list/room/{room_id}", r#"{ "visibility": "private" }"#),
    ("PUT", "/directory/room/{room_alias}", r#"{ "room_id!": "{room}" }"#),
    (
        "PUT",
        "/org.matrix.msc3814.v1/dehydrated_device",
        r#"{ "device_id!": "DRY", "device_data!": { "algorithm": "org.matrix.msc3814.v2" }, "device_keys!": { "user_id": "@alice:chappe.example", "device_id": "DRY", "algorithms": [], "keys": {}, "signatures": {} }, "initial_device_display_name": "Dry", "one_time_keys": {}, "fallback_keys": {} }"#,
    ),
    ("PUT", "/presence/{user_id}/status", r#"{ "presence!": "online", "status_msg": "here" }"#),
    ("PUT", "/profile/{user_id}/{field}", r#"{ "displayname": "Alice" }"#),
    ("PUT", "/pushrules/global/{kind}/{rule_id}", r#"{ "actions!": ["notify"], "pattern!": "word" }"#),
    ("PUT", "/pushrules/global/{kind}/{rule_id}/actions", r#"{ "actions!": ["notify"] }"#),
    ("PUT", "/pushrules/global/{kind}/{rule_id}/enabled", r#"{ "enabled!": true }"#),
    ("PUT", "/room_keys/keys", r#"{ "rooms!": { "{room}": { "sessions": { "session": {session_key} } } } }"#),
    ("PUT", "/room_keys/keys/{room_id}", r#"{ "sessions!": { "session": {session_key} } }"#),
    (
        "PUT",
        "/room_keys/keys/{room_id}/{session_id}",
        r#"{ "first_message_index!": 1, "forwarded_count!": 0, "is_verified!": true, "session_data!": { "ephemeral": "YQ", "ciphertext": "Yg", "mac": "Yw" } }"#,
    ),
    (
        "PUT",
        "/room_keys/version/{version}",
        r#"{ "algorithm!": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data!": { "public_key": "def", "signatures": {} } }"#,
    ),
    (
        "PUT",
        "/rooms/{room_id}/delayed_event/{event_type}/{txn_id}",
        r#"{ "delay!": 1000, "content!": { "body": "later" } }"#,
    ),
    ("PUT", "/rooms/{room_id}/redact/{event_id}/{txn_id}", r#"{ "reason": "why" }"#),
    ("PUT", "/rooms/{room_id}/send/{event_type}/{txn_id}", r#"{ "body": "hello" }"#),
    ("PUT", "/rooms/{room_id}/state/{event_type}/{state_key}", r#"{ "body": "hello" }"#),
    ("PUT", "/rooms/{room_id}/thread/{thread_root}/subscription", r#"{ "automatic": "{reply}" }"#),
    ("PUT", "/rooms/{room_id}/typing/{user_id}", r#"{ "typing!": true, "timeout": 1000 }"#),
    (
        "PUT",
        "/sendToDevice/{event_type}/{txn_id}",
        r#"{ "messages!": { "@bob:chappe.example": { "*": { "body": "hello" } } } }"#,
    ),
    ("PUT", "/user/{user_id}/account_data/{event_type}", r#"{ "body": "hello" }"#),
    ("PUT", "/user/{user_id}/rooms/{room_id}/account_data/{event_type}", r#"{ "body": "hello" }"#),
    ("PUT", "/user/{user_id}/rooms/{room_id}/tags/{tag}", r#"{ "order": 0.5 }"#),
];

/// What stands in place of a path's variable, where it is not what it is for other endpoints.
const VARIABLES: &[(&str, &str, &str, &str)] = &[
    ("GET", "/admin/lock/{user_id}", "user_id", "@bob:chappe.example"),
    ("GET", "/admin/suspend/{user_id}", "user_id", "@bob:chappe.example"),
    ("POST", "/dehydrated_device/{device_id}/events", "device_id", "DRY"),
    ("POST", "/users/{user_id}/report", "user_id", "@bob:chappe.example"),
    ("PUT", "/admin/lock/{user_id}", "user_id", "@bob:chappe.example"),
    ("PUT", "/admin/suspend/{user_id}", "user_id", "@bob:chappe.example"),
    ("PUT", "/directory/room/{room_alias}", "room_alias", "%23new:chappe.example"),
    ("PUT", "/media/v3/upload/{server_name}/{media_id}", "media_id", "{empty_media}"),
];

/// Part of an example, and whether the request is wrong without it.
pub(super) struct Field {
    pub(super) name: String,
    pub(super) value: JsonValue,
    pub(super) is_required: bool,
}

impl Field {
    fn new(name: &str, value: JsonValue) -> Self {
        let bare = name.strip_suffix('!');
        Self { name: bare.unwrap_or(name).to_owned(), value, is_required: bare.is_some() }
    }
}

/// Text with `{word}` replaced by what `value` knows of the word.
pub(super) fn fill(text: &str, value: &impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let word = after
            .split_once('}')
            .filter(|(word, _)| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        rest = match word {
            Some(("auth", behind)) => {
                filled.push_str(AUTH);
                behind
            }
            Some((word, behind)) => {
                filled.push_str(&value(word).unwrap_or_else(|| panic!("{word} stands for nothing")));
                behind
            }
            None => {
                filled.push('{');
                after
            }
        };
    }
    filled + rest
}

fn entry(table: &'static [(&str, &str, &str)], endpoint: &Endpoint) -> Option<&'static str> {
    table.iter().find(|(method, end, _)| endpoint.is((method, end))).map(|(_, _, text)| *text)
}

/// The fields of an endpoint's JSON body, if it reads one.
pub(super) fn body(endpoint: &Endpoint, value: impl Fn(&str) -> Option<String>) -> Option<Vec<Field>> {
    let body = fill(entry(BODIES, endpoint)?, &value);
    let body: serde_json::Map<String, JsonValue> =
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{endpoint}: {error}"));
    Some(body.into_iter().map(|(name, value)| Field::new(&name, value)).collect())
}

/// The parameters of an endpoint's query.
pub(super) fn query(endpoint: &Endpoint, value: impl Fn(&str) -> Option<String>) -> Vec<Field> {
    let query = fill(entry(QUERIES, endpoint).unwrap_or_default(), &value);
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| Field::new(name, value.into()))
        .collect()
}

/// What an endpoint of its own has in place of a variable.
pub(super) fn own_variable(endpoint: &Endpoint, variable: &str) -> Option<&'static str> {
    let mut own = VARIABLES.iter().filter(|(method, end, ..)| endpoint.is((method, end)));
    own.find(|(_, _, name, _)| *name == variable).map(|(.., value)| *value)
}

pub(super) fn names() -> Vec<Name> {
    let tables = QUERIES.iter().chain(BODIES).map(|(method, end, _)| (*method, *end));
    tables.chain(VARIABLES.iter().map(|(method, end, ..)| (*method, *end))).collect()
}
