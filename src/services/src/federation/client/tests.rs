use std::net::IpAddr;

use chappe_protocol::clock::ManualClock;
use chappe_store::Store;
use ruma::{RoomVersionId, event_id, owned_server_name, room_id, server_name, user_id};
use serde_json::json;

use super::*;
use crate::{
    connector::test_server::{FakeDns, Seen, TlsServer, answer},
    federation::xmatrix::XMatrix,
};

/// A client of `own.example` that knows the server as `hs.example` on its port.
pub(crate) struct Setting {
    pub(crate) client: FederationClient,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) store: Store,
    pub(crate) signer: Arc<ServerSigner>,
    pub(crate) peer: OwnedServerName,
    pub(crate) policy: Arc<FederationPolicy>,
    /// Every name that was looked up.
    pub(crate) names_asked: Arc<parking_lot::Mutex<Vec<String>>>,
}

pub(crate) fn setting(server: &TlsServer, deny: &[String]) -> Setting {
    let names_asked = Arc::default();
    let own_name = owned_server_name!("own.example");
    let signer = Arc::new(ServerSigner::from_seed(own_name.clone(), "k1", &[1; 32]).expect("a signer"));
    let dns = FakeDns {
        hosts: ["hs.example", "files.example"].map(|host| (host.to_owned(), IpAddr::from([127, 0, 0, 1]))).into(),
        asked: Arc::clone(&names_asked),
        ..FakeDns::default()
    };
    let connector = server.connector(dns);
    let store = Store::in_memory();
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let destinations = Destinations::load(store.clone(), clock.clone()).expect("a readable store");
    let policy = Arc::new(FederationPolicy::new(own_name, true, &[], deny));
    let resolver = Resolver::new(Arc::new(connector.clone()), clock.clone());
    let client = FederationClient::new(connector, resolver, signer.clone(), policy.clone(), destinations);
    let peer = format!("hs.example:{}", server.address.port()).try_into().expect("a server name");
    Setting { client, clock, store, signer, peer, policy, names_asked }
}

fn signature_holds(seen: &Seen, setting: &Setting) -> bool {
    let header = XMatrix::parse(seen.header("authorization").expect("a signed request")).expect("a header");
    let content: Option<Value> = (!seen.body.is_empty()).then(|| serde_json::from_slice(&seen.body).expect("JSON"));
    let request = SignedRequest {
        method: seen.request.method.as_str(),
        uri: seen.path(),
        origin: server_name!("own.example"),
        destination: &setting.peer,
        content: content.as_ref(),
    };
    request.verify(&header, &setting.signer.public_keys()).is_ok()
}

#[tokio::test]
async fn requests_are_signed_as_they_go_over_the_wire() {
    let server = TlsServer::start(&["hs.example"], |seen| match seen.path() {
        path if path.starts_with("/_matrix/federation/v1/make_join/") => {
            answer(200, json!({ "room_version": "10", "event": { "type": "m.room.member" } }).to_string())
        }
        _ => answer(200, "{}"),
    })
    .await;
    let setting = setting(&server, &[]);
    let versions = [RoomVersionId::V10, RoomVersionId::V11];
    let template = setting
        .client
        .make_join(&setting.peer, room_id!("!r'o m:hs.example"), user_id!("@a/b:own.example"), &versions)
        .await
        .expect("a template");
    assert_eq!(template.room_version, Some(RoomVersionId::V10));
    let body = json!({ "pdus": [], "edus": [{ "edu_type": "x", "content": { "é": 1.5 } }] });
    setting.client.send_transaction(&setting.peer, "t/1".into(), body.clone()).await.expect("an answer");
    let seen = server.seen();
    assert_eq!(
        seen[0].path(),
        "/_matrix/federation/v1/make_join/%21r%27o%20m%3Ahs.example/%40a%2Fb%3Aown.example?ver=10&ver=11"
    );
    assert_eq!(seen[1].path(), "/_matrix/federation/v1/send/t%2F1");
    assert_eq!(serde_json::from_slice::<Value>(&seen[1].body).expect("JSON"), body);
    assert!(seen.iter().all(|seen| signature_holds(seen, &setting)));
    assert_eq!(seen[0].authority(), Some(setting.peer.as_str()));
}

#[tokio::test]
async fn errors_keep_status_errcode_and_reason() {
    let server = TlsServer::start(&["hs.example"], |seen| match seen.path() {
        "/_matrix/federation/v1/event/%24a" => answer(403, r#"{"errcode":"M_FORBIDDEN","error":"no"}"#),
        "/_matrix/federation/v1/event/%24b" => answer(500, "<html>"),
        _ => answer(200, "not json"),
    })
    .await;
    let setting = setting(&server, &[]);
    let fetch = |event_id| setting.client.fetch_event(&setting.peer, event_id);
    let forbidden = fetch(event_id!("$a")).await.expect_err("an error");
    assert!(
        matches!(&forbidden, FederationError::Status { status: 403, errcode: Some(errcode), error } if errcode == "M_FORBIDDEN" && error == "no"),
        "{forbidden}"
    );
    let broken = fetch(event_id!("$b")).await.expect_err("an error");
    assert!(matches!(broken, FederationError::Status { status: 500, errcode: None, .. }), "{broken}");
    let malformed = fetch(event_id!("$c")).await.expect_err("an error");
    assert!(matches!(malformed, FederationError::Malformed(_)), "{malformed}");
    assert!(!setting.client.destinations().is_failing(&setting.peer));
}

#[tokio::test]
async fn denied_server_and_own_server_are_never_asked() {
    let server = TlsServer::start(&["hs.example"], |_| answer(200, "{}")).await;
    let setting = setting(&server, &["hs.example".to_owned()]);
    let denied = setting.client.fetch_version(&setting.peer).await;
    assert!(matches!(denied, Err(FederationError::Policy(PolicyRejection::Denied))));
    let own = setting.client.fetch_version(server_name!("own.example")).await;
    assert!(matches!(own, Err(FederationError::OwnServer)));
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn failing_server_is_spared_background_traffic_only() {
    let server = TlsServer::start(&["hs.example"], |_| answer(503, "{}")).await;
    let setting = setting(&server, &[]);
    let background = || setting.client.send_transaction(&setting.peer, "t".into(), json!({}));
    assert!(matches!(background().await, Err(FederationError::Status { status: 503, .. })));
    assert!(matches!(background().await, Err(FederationError::Backoff { .. })));
    assert!(matches!(
        setting.client.fetch_version(&setting.peer).await,
        Err(FederationError::Status { status: 503, .. })
    ));
    assert_eq!(server.seen().len(), 2);
    setting.clock.advance(10_000);
    assert!(matches!(background().await, Err(FederationError::Status { status: 503, .. })));
}

#[tokio::test]
async fn unreachable_server_is_a_connection_error_and_starts_a_pause() {
    let server = TlsServer::start(&["hs.example"], |_| answer(200, "{}")).await;
    let setting = setting(&server, &[]);
    let nobody = server_name!("127.0.0.1:1");
    let error = setting.client.fetch_version(nobody).await.expect_err("nobody listens there");
    assert!(matches!(error, FederationError::Connect(_)), "{error}");
    assert!(setting.client.destinations().is_failing(nobody));
}

#[tokio::test]
async fn invite_falls_back_to_the_first_version_for_old_rooms_only() {
    let server = TlsServer::start(&["hs.example"], |seen| match seen.path() {
        path if path.starts_with("/_matrix/federation/v1/invite/") => answer(200, r#"[200,{"event":{"signed":true}}]"#),
        _ => answer(404, r#"{"errcode":"M_UNRECOGNIZED","error":"?"}"#),
    })
    .await;
    let setting = setting(&server, &[]);
    let event = serde_json::value::to_raw_value(&json!({ "type": "m.room.member" })).expect("JSON");
    let invite = |version: RoomVersionId| {
        let (client, peer, event) = (setting.client.clone(), setting.peer.clone(), event.clone());
        async move {
            client
                .send_invite(&peer, room_id!("!r:own.example"), event_id!("$e:own.example"), &version, &event, &[])
                .await
        }
    };
    assert_eq!(invite(RoomVersionId::V2).await.expect("a signed event").get(), r#"{"signed":true}"#);
    assert!(matches!(invite(RoomVersionId::V10).await, Err(FederationError::Status { status: 404, .. })));
}

#[tokio::test]
async fn media_comes_in_parts_and_from_the_old_endpoint() {
    use futures_util::StreamExt;

    use crate::media::remote::{FetchMediaError, MediaTransport};

    let server = TlsServer::start(&["hs.example"], |seen| match seen.path() {
        "/_matrix/federation/v1/media/download/new" => {
            let body = "--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Type: image/png\r\n\r\npixels\r\n--b--";
            let mut parts = answer(200, body);
            parts.headers_mut().insert("content-type", "multipart/mixed; boundary=b".parse().expect("a header value"));
            parts
        }
        path if path.starts_with("/_matrix/media/v3/download/") && path.contains("/old?") => answer(200, "old pixels"),
        _ => answer(404, r#"{"errcode":"M_UNRECOGNIZED","error":"?"}"#),
    })
    .await;
    let setting = setting(&server, &[]);
    for (media_id, expected) in [("new", "pixels"), ("old", "old pixels")] {
        let fetched = setting.client.fetch_media(&setting.peer, media_id).await.expect("media");
        let chunks: Vec<_> = fetched.body.map(|chunk| chunk.expect("a chunk")).collect().await;
        assert_eq!(chunks.concat(), expected.as_bytes());
    }
    let missing = setting.client.fetch_media(&setting.peer, "missing").await;
    assert!(matches!(missing, Err(FetchMediaError::NotFound(_))));
    assert!(matches!(setting.client.fetch_media(&setting.peer, "..").await, Err(FetchMediaError::NotFound(_))));
}
