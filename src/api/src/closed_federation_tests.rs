//! A closed federation at the server's doors: every endpoint for servers refuses those that are not listed before their keys are looked for,
//! and no request of a client makes this server look for one that is not.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use chappe_protocol::sign::ServerSigner;
use chappe_services::{
    connector::dns::{Dns, DnsError, DnsFuture, SrvRecord},
    federation::{keys::ServerKeysConfig, xmatrix::SignedRequest},
};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use ruma::{owned_server_name, serde::Base64, server_name};
use serde_json::{Value as JsonValue, json};

use crate::{
    extract::PeerCertificate,
    federation,
    route::inventory,
    test_app::{TestApp, TestConfig},
};

/// Knows no name, and notes every one that it is asked for.
#[derive(Default)]
struct NoNames {
    asked: Mutex<Vec<String>>,
}

impl Dns for NoNames {
    fn lookup_ip<'a>(&'a self, host: &'a str) -> DnsFuture<'a, Vec<std::net::IpAddr>> {
        self.asked.lock().push(host.to_owned());
        Box::pin(async move { Err(DnsError::NotFound(host.to_owned())) })
    }

    fn lookup_srv<'a>(&'a self, name: &'a str) -> DnsFuture<'a, Vec<SrvRecord>> {
        self.asked.lock().push(name.to_owned());
        Box::pin(async move { Ok(Vec::new()) })
    }
}

fn server(allow: &[&str]) -> (TestApp, Arc<NoNames>) {
    let names = Arc::new(NoNames::default());
    let federation_allow = allow.iter().map(|pattern| (*pattern).to_owned()).collect();
    (TestApp::with(TestConfig { dns: Some(names.clone()), federation_allow, ..TestConfig::default() }), names)
}

/// Endpoints that anybody may ask, as the specification has it: they tell nothing of rooms or users, or need a secret.
const UNSIGNED: [&str; 3] =
    ["/_matrix/federation/v1/version", "/_matrix/federation/v1/openid/userinfo", "/_matrix/federation/v1/3pid/onbind"];

async fn ask_signed(app: &TestApp, method: &Method, path: &str) -> (StatusCode, JsonValue) {
    let origin = server_name!("unlisted.example");
    let signer = ServerSigner::from_seed(owned_server_name!("unlisted.example"), "u", &[5; 32]).unwrap();
    let content = (*method != Method::GET).then(|| json!({}));
    let request = SignedRequest {
        method: method.as_str(),
        uri: path,
        origin,
        destination: server_name!("chappe.example"),
        content: content.as_ref(),
    };
    let signed = request.sign(&signer);
    let body = content.map_or_else(Body::empty, |content| Body::from(content.to_string()));
    let request = Request::builder().method(method).uri(path).header(header::AUTHORIZATION, signed).body(body).unwrap();
    let response = app.send(request).await;
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn every_endpoint_for_servers_refuses_those_that_are_not_listed() {
    inventory::take();
    let _router = federation::router();
    let endpoints: Vec<_> = inventory::take()
        .into_iter()
        .filter(|endpoint| endpoint.path.starts_with("/_matrix/federation/") && !UNSIGNED.contains(&&*endpoint.path))
        .collect();
    assert!(endpoints.len() >= 25, "{} endpoints", endpoints.len());
    let (open, names_of_open) = server(&[]);
    let (closed, names) = server(&["*.gouv.example"]);
    for endpoint in endpoints {
        let segments = endpoint.path.split('/').map(|segment| match segment.trim_matches(['{', '}']) {
            "room_id" => "%21r%3Aunlisted.example",
            "event_id" => "%24e",
            "user_id" => "%40u%3Aunlisted.example",
            _ if segment.starts_with('{') => "x",
            _ => segment,
        });
        let path = segments.collect::<Vec<_>>().join("/");
        let what = format!("{} {path}", endpoint.method);

        let (status, answer) = ask_signed(&closed, &endpoint.method, &path).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{what}: {answer}");
        assert_eq!(answer["errcode"], "M_FORBIDDEN", "{what}");
        assert_eq!(*names.asked.lock(), Vec::<String>::new(), "{what}: its keys were looked for");

        let (status, answer) = ask_signed(&open, &endpoint.method, &path).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{what}: {answer}");
    }
    assert!(!names_of_open.asked.lock().is_empty());
}

#[tokio::test]
async fn notary_does_not_ask_servers_that_are_not_listed() {
    let one = "/_matrix/key/v2/query/unlisted.example";
    let many = json!({ "server_keys": { "unlisted.example": {} } });
    for (allow, is_asked) in [(&[][..], true), (&["*.gouv.example"][..], false)] {
        let (app, names) = server(allow);
        for (method, path, body) in
            [(Method::GET, one, JsonValue::Null), (Method::POST, "/_matrix/key/v2/query", many.clone())]
        {
            let (status, answer) = app.call(method, path, None, body).await;
            assert_eq!((status, answer), (StatusCode::OK, json!({ "server_keys": [] })));
        }
        assert_eq!(!names.asked.lock().is_empty(), is_asked);
    }
}

/// What a client may ask that concerns another server: method, path (`{room}` is a room of the client's user), body, and the answer in a
/// closed federation.
fn client_requests() -> Vec<(Method, &'static str, JsonValue, StatusCode)> {
    let user = "@u:unlisted.example";
    let keys = |value: JsonValue| json!({ user: value });
    let (get, post, forbidden) = (|| Method::GET, || Method::POST, StatusCode::FORBIDDEN);
    vec![
        (post(), "/_matrix/client/v3/join/!r:unlisted.example?via=unlisted.example", json!({}), forbidden),
        (post(), "/_matrix/client/v3/join/!r:elsewhere.gouv.example?via=unlisted.example", json!({}), forbidden),
        (post(), "/_matrix/client/v3/rooms/!r:unlisted.example/join", json!({}), forbidden),
        (post(), "/_matrix/client/v3/join/%23a:unlisted.example", json!({}), forbidden),
        (post(), "/_matrix/client/v3/knock/!r:unlisted.example?via=unlisted.example", json!({}), forbidden),
        (post(), "/_matrix/client/v3/createRoom", json!({ "invite": [user] }), forbidden),
        (post(), "/_matrix/client/v3/rooms/{room}/invite", json!({ "user_id": user }), forbidden),
        (get(), "/_matrix/client/v3/directory/room/%23a:unlisted.example", JsonValue::Null, forbidden),
        (get(), "/_matrix/client/v3/publicRooms?server=unlisted.example", JsonValue::Null, forbidden),
        (post(), "/_matrix/client/v3/publicRooms?server=unlisted.example", json!({}), forbidden),
        (get(), "/_matrix/client/v1/media/download/unlisted.example/abc", JsonValue::Null, forbidden),
        (
            get(),
            "/_matrix/client/v1/media/thumbnail/unlisted.example/abc?width=10&height=10",
            JsonValue::Null,
            forbidden,
        ),
        (get(), "/_matrix/client/v3/profile/@u:unlisted.example", JsonValue::Null, forbidden),
        (post(), "/_matrix/client/v3/keys/query", json!({ "device_keys": keys(json!([])) }), StatusCode::OK),
        (
            post(),
            "/_matrix/client/v3/keys/claim",
            json!({ "one_time_keys": keys(json!({ "D": "signed_curve25519" })) }),
            StatusCode::OK,
        ),
        (
            get(),
            "/_matrix/client/v1/room_summary/!r:unlisted.example?via=unlisted.example",
            JsonValue::Null,
            StatusCode::NOT_FOUND,
        ),
        (get(), "/_matrix/client/v1/rooms/!r:unlisted.example/hierarchy", JsonValue::Null, forbidden),
        (
            Method::PUT,
            "/_matrix/client/v3/sendToDevice/m.x/t1",
            json!({ "messages": keys(json!({ "*": {} })) }),
            StatusCode::OK,
        ),
    ]
}

#[tokio::test]
async fn no_request_of_a_client_makes_this_server_look_for_one_that_is_not_listed() {
    for (allow, is_asked) in [(&["chappe.example", "*.gouv.example"][..], false), (&[][..], true)] {
        for (method, path, body, expected) in client_requests() {
            // Each on its own: a server that could not be found is not asked again at once.
            let (app, names) = server(allow);
            let token = app.register("alice").await;
            let (_, room) = app.post("/_matrix/client/v3/createRoom", Some(&token), json!({})).await;
            let path = path.replace("{room}", room["room_id"].as_str().unwrap());
            let (status, answer) = app.call(method.clone(), &path, Some(&token), body).await;
            if !is_asked {
                assert_eq!(status, expected, "{method} {path}: {answer}");
            }
            let is_unlisted = |name: &String| name.contains("unlisted.example");
            let mut waits = 0;
            while is_asked && !names.asked.lock().iter().any(is_unlisted) && waits < 200 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                waits += 1;
            }
            if !is_asked {
                // For what is sent behind the answer.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert_eq!(names.asked.lock().iter().any(is_unlisted), is_asked, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn requests_over_a_connection_with_a_certificate_are_of_the_servers_it_names() {
    let peer = owned_server_name!("peer.example");
    let signer = ServerSigner::from_seed(peer.clone(), "p", &[5; 32]).unwrap();
    let key: Base64 = Base64::parse(signer.verify_key_base64()).unwrap();
    let pinned = [(signer.key_id().to_owned(), key.into_inner())].into();
    let server_keys = ServerKeysConfig { pinned_keys: [(peer.clone(), pinned)].into(), ..ServerKeysConfig::default() };
    let app = TestApp::with(TestConfig { server_keys, ..TestConfig::default() });
    app.register("alice").await;
    let path = "/_matrix/federation/v1/query/profile?user_id=%40alice%3Achappe.example";
    let request = SignedRequest {
        method: "GET",
        uri: path,
        origin: &peer,
        destination: server_name!("chappe.example"),
        content: None,
    };
    let signed = request.sign(&signer);
    for (shown, expected) in [
        (None, StatusCode::OK),
        (Some("peer.example"), StatusCode::OK),
        (Some("another.example"), StatusCode::UNAUTHORIZED),
    ] {
        let mut request =
            Request::builder().uri(path).header(header::AUTHORIZATION, &signed).body(Body::empty()).unwrap();
        if let Some(name) = shown {
            request.extensions_mut().insert(PeerCertificate(Arc::new(move |server| server == name)));
        }
        assert_eq!(app.send(request).await.status(), expected, "{shown:?}");
    }
}
