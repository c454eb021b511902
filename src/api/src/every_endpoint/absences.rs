//! What is not there is not found.

use super::{
    Endpoint, Name, endpoints, strangers,
    world::{Who, World},
};

/// For a variable of a path, something that is not there. Rooms are in [`strangers`]: one that is not there is as one that one is not in.
const ABSENT: &[(&str, &str)] = &[
    ("delay_id", "nothing"),
    ("device_id", "NOTHING"),
    ("event_id", "$nothing"),
    ("event_type", "org.example.nothing"),
    ("field", "org.example.nothing"),
    ("filter_id", "999"),
    ("media_id", "nothing"),
    ("protocol", "nothing"),
    ("room_alias", "%23nothing:chappe.example"),
    ("room_id_or_alias", "%23nothing:chappe.example"),
    ("rule_id", "nothing"),
    ("session_id", "nothing"),
    ("state_key", "nothing"),
    ("tag", "nothing"),
    ("thread_root", "$nothing"),
    ("user_id", "@nobody:chappe.example"),
    ("version", "999"),
];

/// Variables that name what the request makes, so that it need not be there.
const MAKES: &[(Name, &[&str])] = &[
    (("PUT", "/directory/room/{room_alias}"), &["room_alias"]),
    (("PUT", "/profile/{user_id}/{field}"), &["field"]),
    (("PUT", "/pushrules/global/{kind}/{rule_id}"), &["rule_id"]),
    (("PUT", "/room_keys/keys/{room_id}/{session_id}"), &["session_id"]),
    (("PUT", "/rooms/{room_id}/account_data/{event_type}"), &["event_type"]),
    (("PUT", "/rooms/{room_id}/delayed_event/{event_type}/{txn_id}"), &["event_type"]),
    (("PUT", "/rooms/{room_id}/send/{event_type}/{txn_id}"), &["event_type"]),
    (("PUT", "/rooms/{room_id}/state/{event_type}/{state_key}"), &["event_type", "state_key"]),
    (("PUT", "/rooms/{room_id}/tags/{tag}"), &["tag"]),
    (("PUT", "/sendToDevice/{event_type}/{txn_id}"), &["event_type"]),
    (("PUT", "/user/{user_id}/account_data/{event_type}"), &["event_type"]),
];

/// Endpoints that answer otherwise than 404 M_NOT_FOUND when this variable names what is not there.
const OTHERWISE: &[(Name, &str, u16, &str)] = &[
    // Taking away what is not there has nothing to do.
    (("DELETE", "/user/{user_id}/account_data/{event_type}"), "event_type", 200, ""),
    (("DELETE", "/rooms/{room_id}/account_data/{event_type}"), "event_type", 200, ""),
    (("DELETE", "/devices/{device_id}"), "device_id", 200, ""),
    (("DELETE", "/profile/{user_id}/{field}"), "field", 200, ""),
    (("DELETE", "/room_keys/keys/{room_id}/{session_id}"), "session_id", 200, ""),
    (("DELETE", "/rooms/{room_id}/tags/{tag}"), "tag", 200, ""),
    // A list of what there is of a type.
    (("GET", "/relations/{event_id}/{rel_type}/{event_type}"), "event_type", 200, ""),
    // Nobody learns who is there: they might be users whose presence is not for Alice.
    (("GET", "/presence/{user_id}/status"), "user_id", 403, "M_FORBIDDEN"),
    (("POST", "/users/{user_id}/report"), "user_id", 200, ""),
    // The event may be on its way to this server.
    (("POST", "/rooms/{room_id}/receipt/{receipt_type}/{event_id}"), "event_id", 200, ""),
    (("PUT", "/rooms/{room_id}/redact/{event_id}/{txn_id}"), "event_id", 200, ""),
];

pub(super) fn names() -> Vec<Name> {
    OTHERWISE.iter().map(|(name, ..)| *name).chain(MAKES.iter().map(|(name, _)| *name)).collect()
}

/// Whether the endpoint is for what is the user's own: others' are refused, whether there are such users or not.
fn is_for_oneself(endpoint: &Endpoint) -> bool {
    !endpoint.path.contains("/admin/") && !strangers::USERS.iter().any(|(name, ..)| endpoint.is(*name))
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for endpoint in &endpoints() {
        for (variable, absent) in ABSENT.iter().filter(|(variable, _)| endpoint.has(variable)) {
            let is_made = MAKES.iter().any(|(name, made)| endpoint.is(*name) && made.contains(variable));
            if is_made || (*variable == "user_id" && is_for_oneself(endpoint)) {
                continue;
            }
            let answer = world.ask(&world.example_with(endpoint, &[(variable, absent)]), Who::Alice).await;
            let listed = OTHERWISE.iter().find(|(name, of, ..)| endpoint.is(*name) && of == variable);
            let expected = listed.map_or((404, "M_NOT_FOUND"), |(.., status, errcode)| (*status, *errcode));
            if (answer.0, answer.1.as_str()) != expected {
                wrong.push(format!("{endpoint}, {variable}: {answer:?}, not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
