//! Every example succeeds: what the other tests change about it is all that is wrong then.

use http::Method;

use super::{
    Name, endpoints,
    world::{Who, World},
};

/// Where the example cannot succeed in this world, what it is answered. Other tests show success.
const OTHERWISE: &[(Name, u16, &str)] = &[
    // Media of before there was a token for it; there is none here.
    (("GET", "/media/v3/download/{server_name}/{media_id}"), 404, "M_NOT_FOUND"),
    (("GET", "/media/v3/download/{server_name}/{media_id}/{filename}"), 404, "M_NOT_FOUND"),
    (("GET", "/media/v3/thumbnail/{server_name}/{media_id}"), 404, "M_NOT_FOUND"),
    // Previews are switched off.
    (("GET", "/media/v3/preview_url"), 404, "M_UNRECOGNIZED"),
    // The application service offers no protocol, and has no URL.
    (("GET", "/thirdparty/location/{protocol}"), 404, "M_NOT_FOUND"),
    (("GET", "/thirdparty/protocol/{protocol}"), 404, "M_NOT_FOUND"),
    (("GET", "/thirdparty/user/{protocol}"), 404, "M_NOT_FOUND"),
    (("POST", "/appservice/{appservice_id}/ping"), 400, "M_URL_NOT_SET"),
    // Nobody is logging in.
    (("POST", "/auth/{auth_type}/fallback/web"), 400, "M_UNKNOWN"),
    // Nobody has proven that the address is theirs.
    (("POST", "/3pid/add"), 400, "M_THREEPID_AUTH_FAILED"),
    (("POST", "/account/3pid"), 400, "M_THREEPID_AUTH_FAILED"),
    // There are no identity servers and no telephones.
    (("POST", "/3pid/bind"), 400, "M_SERVER_NOT_TRUSTED"),
    (("POST", "/account/3pid/msisdn/requestToken"), 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
    (("POST", "/account/password/msisdn/requestToken"), 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
    (("POST", "/register/msisdn/requestToken"), 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
    // Alice is in the room.
    (("POST", "/knock/{room_id_or_alias}"), 403, "M_FORBIDDEN"),
    (("POST", "/rooms/{room_id}/forget"), 400, "M_UNKNOWN"),
];

pub(super) fn names() -> Vec<Name> {
    OTHERWISE.iter().map(|(name, ..)| *name).collect()
}

#[tokio::test]
async fn examples_succeed() {
    let mut wrong = Vec::new();
    let untouched = World::new().await;
    let mut changed = World::new().await;
    for endpoint in &endpoints() {
        let world = if endpoint.method == Method::GET { &untouched } else { &changed };
        let mut answer = world.ask(&world.example(endpoint), Who::Alice).await;
        let expected = OTHERWISE.iter().find(|(name, ..)| endpoint.is(*name));
        let expected = expected.map_or((200, String::new()), |(_, status, errcode)| (*status, (*errcode).to_owned()));
        if answer != expected {
            // Another endpoint may have taken away what this one needs.
            changed = World::new().await;
            answer = changed.ask(&changed.example(endpoint), Who::Alice).await;
        }
        if answer != expected {
            wrong.push(format!("{endpoint}: {answer:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
