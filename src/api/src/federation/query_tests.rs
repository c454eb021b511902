use axum::body::Body;
use chappe_protocol::sign::ServerSigner;
use chappe_services::federation::{keys::ServerKeysConfig, xmatrix::SignedRequest};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use ruma::{owned_server_name, serde::Base64, server_name};
use serde_json::Value as JsonValue;

use crate::test_app::{TestApp, TestConfig};

/// A server, and another whose key it knows.
fn server() -> (TestApp, ServerSigner) {
    let peer = owned_server_name!("peer.example");
    let signer = ServerSigner::from_seed(peer.clone(), "p", &[5; 32]).unwrap();
    let key: Base64 = Base64::parse(signer.verify_key_base64()).unwrap();
    let pinned = [(signer.key_id().to_owned(), key.into_inner())].into();
    let server_keys = ServerKeysConfig { pinned_keys: [(peer, pinned)].into(), ..ServerKeysConfig::default() };
    (TestApp::with(TestConfig { server_keys, ..TestConfig::default() }), signer)
}

async fn get(app: &TestApp, path: &str, signer: Option<&ServerSigner>) -> (StatusCode, JsonValue) {
    let mut request = Request::builder().uri(path);
    if let Some(signer) = signer {
        let signed = SignedRequest {
            method: "GET",
            uri: path,
            origin: server_name!("peer.example"),
            destination: server_name!("chappe.example"),
            content: None,
        };
        request = request.header(header::AUTHORIZATION, signed.sign(signer));
    }
    let response = app.send(request.body(Body::empty()).unwrap()).await;
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn queries_that_do_not_exist_are_unrecognized() {
    let (app, peer) = server();
    app.register("alice").await;
    let profile = "/_matrix/federation/v1/query/profile?user_id=%40alice%3Achappe.example";
    assert_eq!(get(&app, profile, Some(&peer)).await.0, StatusCode::OK);
    let unknown = "/_matrix/federation/v1/query/weather?city=Paris";
    let (status, answer) = get(&app, unknown, Some(&peer)).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &"M_UNRECOGNIZED".into()));
    assert_eq!(get(&app, unknown, None).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn profile_queries_say_what_is_wrong() {
    let (app, peer) = server();
    for (query, status, errcode) in [
        ("user_id=%40nobody%3Achappe.example", StatusCode::NOT_FOUND, "M_NOT_FOUND"),
        ("user_id=%40alice%3Aelsewhere.example", StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
        ("user_id=alice", StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
        ("", StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
    ] {
        let path = format!("/_matrix/federation/v1/query/profile?{query}");
        let (found, answer) = get(&app, &path, Some(&peer)).await;
        assert_eq!((found, &answer["errcode"]), (status, &errcode.into()), "{query}");
    }
}
