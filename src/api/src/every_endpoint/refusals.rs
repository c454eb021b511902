//! Who shows no access token is refused, and so is a body that is no JSON.

use http::{Method, StatusCode};
use serde_json::json;

use super::{
    Name, endpoints,
    world::{Shape, Who, World},
};
use crate::test_app::TestApp;

/// Endpoints that anybody may ask.
const OPEN: &[Name] = &[
    ("GET", "/auth/{auth_type}/fallback/web"),
    ("GET", "/client/versions"),
    ("GET", "/directory/list/room/{room_id}"),
    ("GET", "/directory/room/{room_alias}"),
    ("GET", "/client/v3/login"),
    ("GET", "/media/v3/download/{server_name}/{media_id}"),
    ("GET", "/media/v3/download/{server_name}/{media_id}/{filename}"),
    ("GET", "/media/v3/thumbnail/{server_name}/{media_id}"),
    ("GET", "/password_policy"),
    ("GET", "/profile/{user_id}"),
    ("GET", "/profile/{user_id}/{field}"),
    ("GET", "/publicRooms"),
    ("GET", "/register/available"),
    ("GET", "/register/m.login.registration_token/validity"),
    // For open rooms that this server is in; this one is not open.
    ("GET", "/room_summary/{room_id_or_alias}"),
    ("POST", "/account/3pid/email/requestToken"),
    ("POST", "/account/3pid/msisdn/requestToken"),
    // By a proof of the account's email address: the password alone does not do.
    ("POST", "/account/password"),
    ("POST", "/account/password/email/requestToken"),
    ("POST", "/account/password/msisdn/requestToken"),
    ("POST", "/auth/{auth_type}/fallback/web"),
    // Delayed events are known by ids that cannot be guessed.
    ("POST", "/delayed_events/{delay_id}"),
    ("POST", "/delayed_events/{delay_id}/{action}"),
    ("POST", "/client/v3/login"),
    ("POST", "/refresh"),
    ("POST", "/register"),
    ("POST", "/register/email/requestToken"),
    ("POST", "/register/msisdn/requestToken"),
];

/// Endpoints that read no JSON.
const WITHOUT_JSON: &[Name] = &[
    ("POST", "/auth/{auth_type}/fallback/web"),
    ("POST", "/delayed_events/{delay_id}/{action}"),
    ("POST", "/logout"),
    ("POST", "/logout/all"),
    ("POST", "/media/v1/create"),
    ("POST", "/media/v3/upload"),
    ("POST", "/openid/request_token"),
    ("POST", "/rooms/{room_id}/forget"),
    ("PUT", "/media/v3/upload/{server_name}/{media_id}"),
];

pub(super) fn names() -> Vec<Name> {
    [OPEN, WITHOUT_JSON].concat()
}

#[tokio::test]
async fn who_shows_no_token_is_refused() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for endpoint in &endpoints() {
        let answer = world.ask(&world.example(endpoint), Who::Nobody).await;
        if (answer == (401, "M_MISSING_TOKEN".to_owned())) == endpoint.is_in(OPEN) {
            wrong.push(format!("{endpoint}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "not as OPEN says:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn body_that_is_no_json_is_refused() {
    let mut wrong = Vec::new();
    let mut world = World::new().await;
    for endpoint in endpoints().iter().filter(|endpoint| [Method::POST, Method::PUT].contains(&endpoint.method)) {
        let mut draft = world.example(endpoint);
        draft.body = Some(Shape::Text("{ no".to_owned()));
        let answer = world.ask(&draft, Who::Alice).await;
        // What reads no body may have logged Alice out.
        if endpoint.is_in(WITHOUT_JSON) {
            world = World::new().await;
        }
        if (answer == (400, "M_NOT_JSON".to_owned())) == endpoint.is_in(WITHOUT_JSON) {
            wrong.push(format!("{endpoint}: {answer:?}"));
        }
        if world.example(endpoint).body.is_some() == endpoint.is_in(WITHOUT_JSON) {
            wrong.push(format!("{endpoint}: its example has no body, or one that is not read"));
        }
    }
    assert!(wrong.is_empty(), "not as WITHOUT_JSON says:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn login_without_a_type_is_refused() {
    let server = TestApp::new();
    for body in [json!({}), json!([]), json!({ "type": 1 }), json!(1)] {
        let (status, _) = server.post("/_matrix/client/v3/login", None, body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    }
}
