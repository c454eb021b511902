//! Who is not in a room may not know what is in it, and who is not a user may not act as that user.

use super::{
    Endpoint, Name, endpoints,
    world::{Who, World},
};

/// Endpoints with a room in their path that answer who is not in the room otherwise than 403 M_FORBIDDEN.
const ROOMS: &[(Name, u16, &str)] = &[
    // What users keep for themselves, whatever rooms they are in. Dave has kept nothing.
    (("DELETE", "/rooms/{room_id}/account_data/{event_type}"), 200, ""),
    (("DELETE", "/rooms/{room_id}/tags/{tag}"), 200, ""),
    (("DELETE", "/room_keys/keys/{room_id}"), 404, "M_NOT_FOUND"),
    (("DELETE", "/room_keys/keys/{room_id}/{session_id}"), 404, "M_NOT_FOUND"),
    (("GET", "/room_keys/keys/{room_id}"), 404, "M_NOT_FOUND"),
    (("GET", "/room_keys/keys/{room_id}/{session_id}"), 404, "M_NOT_FOUND"),
    (("GET", "/rooms/{room_id}/account_data/{event_type}"), 404, "M_NOT_FOUND"),
    (("GET", "/user/{user_id}/rooms/{room_id}/tags"), 200, ""),
    (("PUT", "/room_keys/keys/{room_id}"), 404, "M_NOT_FOUND"),
    (("PUT", "/room_keys/keys/{room_id}/{session_id}"), 404, "M_NOT_FOUND"),
    (("PUT", "/rooms/{room_id}/account_data/{event_type}"), 200, ""),
    (("PUT", "/rooms/{room_id}/tags/{tag}"), 200, ""),
    // Whether an event is there nobody learns who may not see it.
    (("GET", "/rooms/{room_id}/context/{event_id}"), 404, "M_NOT_FOUND"),
    (("GET", "/rooms/{room_id}/event/{event_id}"), 404, "M_NOT_FOUND"),
    (("GET", "/rooms/{room_id}/relations/{event_id}"), 404, "M_NOT_FOUND"),
    (("GET", "/rooms/{room_id}/relations/{event_id}/{rel_type}"), 404, "M_NOT_FOUND"),
    (("GET", "/rooms/{room_id}/relations/{event_id}/{rel_type}/{event_type}"), 404, "M_NOT_FOUND"),
    (("POST", "/rooms/{room_id}/report/{event_id}"), 404, "M_NOT_FOUND"),
    (("DELETE", "/thread/{thread_root}/subscription"), 404, "M_NOT_FOUND"),
    (("GET", "/thread/{thread_root}/subscription"), 404, "M_NOT_FOUND"),
    (("PUT", "/thread/{thread_root}/subscription"), 404, "M_NOT_FOUND"),
    // So the specification has it, for rooms.
    (("GET", "/room_summary/{room_id_or_alias}"), 404, "M_NOT_FOUND"),
    // Says of any room of this server whether it is in the directory.
    (("GET", "/directory/list/room/{room_id}"), 200, ""),
    // There is nothing to forget.
    (("POST", "/rooms/{room_id}/forget"), 400, "M_UNKNOWN"),
    // Reports are for those who are not in a room, too.
    (("POST", "/rooms/{room_id}/report"), 200, ""),
];

/// Endpoints that tell whether a room is there, since they are for more than those who are in it.
const TELLING: &[Name] = &[
    ("GET", "/directory/list/room/{room_id}"),
    ("POST", "/rooms/{room_id}/forget"),
    ("POST", "/rooms/{room_id}/join"),
    ("POST", "/rooms/{room_id}/leave"),
    ("PUT", "/directory/list/appservice/{network_id}/{room_id}"),
    ("PUT", "/directory/list/room/{room_id}"),
];

/// Endpoints with a user in their path that answer another user otherwise than 403 M_FORBIDDEN.
pub(super) const USERS: &[(Name, u16, &str)] = &[
    // They share a room.
    (("GET", "/presence/{user_id}/status"), 200, ""),
    // Profiles are for everybody.
    (("GET", "/profile/{user_id}"), 200, ""),
    (("GET", "/profile/{user_id}/{field}"), 200, ""),
    (("POST", "/users/{user_id}/report"), 200, ""),
];

pub(super) fn names() -> Vec<Name> {
    [ROOMS, USERS].concat().iter().map(|(name, ..)| *name).chain(TELLING.iter().copied()).collect()
}

fn expected(table: &[(Name, u16, &str)], endpoint: &Endpoint) -> (u16, String) {
    let listed = table.iter().find(|(name, ..)| endpoint.is(*name));
    listed.map_or((403, "M_FORBIDDEN".to_owned()), |(_, status, errcode)| (*status, (*errcode).to_owned()))
}

#[tokio::test]
async fn who_is_not_in_the_room_is_refused() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for endpoint in &endpoints() {
        if !endpoint.has("room_id") && !endpoint.has("room_id_or_alias") {
            continue;
        }
        // What names the user by path is about the one who asks.
        let draft = world.example_with(endpoint, &[("user_id", "@dave:chappe.example")]);
        let answer = world.ask(&draft, Who::Dave).await;
        let expected = expected(ROOMS, endpoint);
        if answer != expected {
            wrong.push(format!("{endpoint}: {answer:?}, not {expected:?}"));
        }
        // Nor may anybody find out which rooms there are.
        if endpoint.has("room_id") && !endpoint.is_in(TELLING) {
            let absent = world
                .example_with(endpoint, &[("user_id", "@dave:chappe.example"), ("room_id", "!nothing:chappe.example")]);
            let of_absent = world.ask(&absent, Who::Dave).await;
            if of_absent != answer {
                wrong.push(format!("{endpoint}: {answer:?}, but for a room that is not there {of_absent:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn who_is_another_user_is_refused() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for endpoint in endpoints().iter().filter(|endpoint| endpoint.has("user_id")) {
        let draft = world.example_with(endpoint, &[("user_id", "@alice:chappe.example")]);
        let answer = world.ask(&draft, Who::Bob).await;
        let expected = expected(USERS, endpoint);
        if answer != expected {
            wrong.push(format!("{endpoint}: {answer:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
