//! What every endpoint for clients has in common, tested for all of them at once: who shows no access token is refused, and so is a body
//! that is no JSON.

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::Value as JsonValue;

use crate::{route::inventory, test_app::TestApp};

/// Endpoints that anybody may ask: by method, and the end of the path.
const OPEN: &[(&str, &str)] = &[
    ("GET", "/auth/{auth_type}/fallback/web"),
    ("GET", "/client/versions"),
    ("GET", "/directory/list/room/{room_id}"),
    ("GET", "/directory/room/{room_alias}"),
    ("GET", "/login"),
    ("GET", "/media/v3/download/{server_name}/{media_id}"),
    ("GET", "/media/v3/download/{server_name}/{media_id}/{filename}"),
    ("GET", "/media/v3/thumbnail/{server_name}/{media_id}"),
    ("GET", "/password_policy"),
    ("GET", "/profile/{user_id}"),
    ("GET", "/profile/{user_id}/{field}"),
    ("GET", "/publicRooms"),
    ("GET", "/register/available"),
    ("GET", "/register/m.login.registration_token/validity"),
    ("POST", "/3pid/email/requestToken"),
    ("POST", "/3pid/msisdn/requestToken"),
    // By a proof of the account's email address.
    ("POST", "/account/password"),
    ("POST", "/auth/{auth_type}/fallback/web"),
    // Delayed events are known by ids that cannot be guessed.
    ("POST", "/delayed_events/{delay_id}"),
    ("POST", "/delayed_events/{delay_id}/{action}"),
    ("POST", "/login"),
    ("POST", "/password/email/requestToken"),
    ("POST", "/password/msisdn/requestToken"),
    ("POST", "/refresh"),
    ("POST", "/register"),
    ("POST", "/register/email/requestToken"),
    ("POST", "/register/msisdn/requestToken"),
];

/// Endpoints that read no JSON, or that have refused this user before they do.
const WITHOUT_JSON: &[(&str, &str)] = &[
    ("POST", "/appservice/{appservice_id}/ping"),
    ("POST", "/auth/{auth_type}/fallback/web"),
    ("POST", "/delayed_events/{delay_id}/{action}"),
    ("POST", "/logout"),
    ("POST", "/logout/all"),
    ("POST", "/media/v1/create"),
    ("POST", "/media/v3/upload"),
    ("POST", "/openid/request_token"),
    ("POST", "/rooms/{room_id}/forget"),
    ("PUT", "/admin/lock/{user_id}"),
    ("PUT", "/admin/suspend/{user_id}"),
    ("PUT", "/directory/list/appservice/{network_id}/{room_id}"),
    ("PUT", "/media/v3/upload/{server_name}/{media_id}"),
];

/// Every endpoint for clients, by its last path: the others are older or unstable forms of it.
fn client_endpoints() -> Vec<(Method, String)> {
    inventory::take();
    let _router = crate::endpoints();
    let mut endpoints = std::collections::BTreeMap::new();
    for endpoint in inventory::take() {
        let is_client = ["/_matrix/client/", "/_matrix/media/"].iter().any(|prefix| endpoint.path.starts_with(prefix));
        if is_client && !endpoint.path.ends_with('/') {
            endpoints.insert((endpoint.method.to_string(), endpoint.handler), (endpoint.method, endpoint.path));
        }
    }
    endpoints.into_values().collect()
}

/// A path with something plausible in place of its variables.
fn filled(path: &str) -> String {
    let value = |name: &str| match name {
        "room_id" | "room_id_or_alias" => "!room:chappe.example",
        "user_id" => "@alice:chappe.example",
        "event_id" | "thread_root" => "$event:chappe.example",
        "room_alias" => "%23alias:chappe.example",
        "server_name" => "chappe.example",
        "event_type" => "org.example.type",
        "receipt_type" => "m.read",
        "kind" => "content",
        "rule_id" => "rule",
        "version" => "1",
        "auth_type" => "m.login.terms",
        _ => "x",
    };
    let segments = path.split('/');
    let segments = segments
        .map(|segment| segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')).map_or(segment, value))
        .collect::<Vec<_>>();
    let query = if path.contains("/room_keys/keys") { "?version=1" } else { "" };
    format!("{}{query}", segments.join("/"))
}

fn is_listed(list: &[(&str, &str)], method: &Method, path: &str) -> bool {
    list.iter().any(|(listed, end)| *listed == method.as_str() && path.ends_with(end))
}

async fn refusal(server: &TestApp, request: Request<Body>) -> (StatusCode, String) {
    let response = server.send(request).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let answer: JsonValue = serde_json::from_slice(&body).unwrap_or_default();
    (status, answer["errcode"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn who_shows_no_token_is_refused() {
    let server = TestApp::new();
    let mut wrong = Vec::new();
    for (method, path) in client_endpoints() {
        let request = Request::builder().method(&method).uri(filled(&path));
        let refused = refusal(&server, request.body(Body::from("{}")).unwrap()).await;
        let is_refused = refused == (StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN".to_owned());
        if is_refused == is_listed(OPEN, &method, &path) {
            wrong.push(format!("{method} {path}: {} {}", refused.0, refused.1));
        }
    }
    assert!(wrong.is_empty(), "not as OPEN says:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn body_that_is_no_json_is_refused() {
    let server = TestApp::new();
    let mut wrong = Vec::new();
    let endpoints = client_endpoints().into_iter().filter(|(method, _)| [Method::POST, Method::PUT].contains(method));
    for (number, (method, path)) in endpoints.enumerate() {
        // Somebody else each time: what reads no body may log out.
        let token = server.register(&format!("user{number}")).await;
        let request = Request::builder().method(&method).uri(filled(&path));
        let request =
            request.header(header::AUTHORIZATION, format!("Bearer {token}")).body(Body::from("{ no")).unwrap();
        let refused = refusal(&server, request).await;
        let is_refused = refused == (StatusCode::BAD_REQUEST, "M_NOT_JSON".to_owned());
        if is_refused == is_listed(WITHOUT_JSON, &method, &path) {
            wrong.push(format!("{method} {path}: {} {}", refused.0, refused.1));
        }
    }
    assert!(wrong.is_empty(), "not as WITHOUT_JSON says:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn login_without_a_type_is_refused() {
    let server = TestApp::new();
    for body in ["{}", "[]", r#"{"type":1}"#, "1"] {
        let request = Request::post("/_matrix/client/v3/login").body(Body::from(body)).unwrap();
        assert_eq!(refusal(&server, request).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
}
