//! A closed federation: whatever this server might ask of one that is not listed, nothing leaves it, and not even the name is looked up.

use chappe_rooms::{
    relationships::RelationshipQuery,
    remote::{Members, MissingEvents},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, RoomVersionId, api::Direction, event_id, room_alias_id, room_id, server_name, uint,
    user_id,
};
use serde_json::json;

use super::{
    tests::{Setting, setting},
    *,
};
use crate::{
    connector::test_server::{TlsServer, answer},
    federation::keys::{NotaryCriteria, ServerKeys, ServerKeysConfig},
    media::remote::{FetchMediaError, MediaTransport},
};

/// What came of a question.
struct Asked {
    what: &'static str,
    is_refused: bool,
    /// How many requests the other server got.
    requests: usize,
}

/// Every question that there is, each on its own.
async fn ask_everything(server: &TlsServer, setting: &Setting) -> Vec<Asked> {
    let (client, peer) = (&setting.client, &*setting.peer);
    let (room, event, user) = (room_id!("!r:hs.example"), event_id!("$e"), user_id!("@u:hs.example"));
    let own_user = user_id!("@me:own.example");
    let versions = [RoomVersionId::V11];
    let pdu = serde_json::value::to_raw_value(&json!({ "type": "m.room.member" })).expect("JSON");
    let key_url = format!("https://{peer}/valid");
    let mut all = Vec::new();
    macro_rules! ask {
        ($what:literal, $call:expr) => {{
            let before = server.seen().len();
            let outcome = $call.await;
            all.push(Asked {
                what: $what,
                is_refused: matches!(outcome, Err(FederationError::Policy(_))),
                requests: server.seen().len() - before,
            });
        }};
    }
    ask!("transaction", client.send_transaction(peer, "t".into(), json!({})));
    ask!("event", client.fetch_event(peer, event));
    ask!("event_auth", client.fetch_event_auth(peer, room, event));
    ask!("state", client.fetch_state(peer, room, event, &mut |_| Ok(())));
    ask!("state_ids", client.fetch_state_ids(peer, room, event));
    ask!("backfill", client.fetch_backfill(peer, room, &[event.to_owned()], 1));
    let gap = MissingEvents { earliest: Vec::new(), latest: vec![event.to_owned()], limit: 1, min_depth: 0 };
    ask!("get_missing_events", client.fetch_missing_events(peer, room, &gap));
    let now = MilliSecondsSinceUnixEpoch(uint!(1));
    ask!("timestamp_to_event", client.fetch_event_by_timestamp(peer, room, now, Direction::Backward));
    ask!("policy server", client.fetch_policy_signature(peer, &pdu, Urgency::User));
    let related = RelationshipQuery::new(event.to_owned());
    ask!("event_relationships", client.fetch_event_relationships(peer, &related));
    ask!("make_join", client.make_join(peer, room, own_user, &versions));
    ask!("send_join", client.send_join(peer, room, event, &pdu, Members::All));
    ask!("make_leave", client.make_leave(peer, room, own_user));
    ask!("send_leave", client.send_leave(peer, room, event, &pdu));
    ask!("make_knock", client.make_knock(peer, room, own_user, &versions));
    ask!("send_knock", client.send_knock(peer, room, event, &pdu));
    ask!("invite", client.send_invite(peer, room, event, &RoomVersionId::V11, &pdu, &[]));
    ask!("exchange_third_party_invite", client.exchange_third_party_invite(peer, room, json!({})));
    ask!("key_validity_url", client.check_key_validity(&key_url, "key"));
    ask!("profile", client.query_profile(peer, user, None));
    ask!("directory", client.query_directory(peer, room_alias_id!("#a:hs.example")));
    ask!("devices", client.fetch_user_devices(peer, user));
    ask!("keys query", client.query_user_keys(peer, &json!({})));
    ask!("keys claim", client.claim_user_keys(peer, &json!({})));
    ask!("publicRooms", client.fetch_public_rooms(peer, json!({})));
    ask!("hierarchy", client.fetch_hierarchy(peer, room, false));
    ask!("openid userinfo", client.fetch_openid_userinfo(peer, "token"));
    ask!("version", client.fetch_version(peer));
    ask!("media", async {
        match client.fetch_media(peer, "abc").await {
            Err(FetchMediaError::NotAllowed(_)) => Err(FederationError::Policy(PolicyRejection::NotAllowed)),
            _ => Ok(()),
        }
    });
    all
}

#[tokio::test]
async fn servers_that_are_not_listed_are_asked_nothing() {
    let server = TlsServer::start(&["hs.example"], |_| answer(404, r#"{"errcode":"M_NOT_FOUND"}"#)).await;
    let setting = setting(&server, &[]);
    for asked in ask_everything(&server, &setting).await {
        assert!(asked.requests > 0 && !asked.is_refused, "{}: while everybody is allowed it is asked", asked.what);
    }
    for (enabled, allow, deny) in [(true, "*.gouv.example", "none"), (true, "*", "hs.example"), (false, "*", "none")] {
        setting.policy.replace(enabled, &[allow.to_owned()], &[deny.to_owned()]);
        setting.names_asked.lock().clear();
        for asked in ask_everything(&server, &setting).await {
            assert_eq!(asked.requests, 0, "{}: something went out", asked.what);
            assert!(asked.is_refused, "{}: not refused by the policy", asked.what);
        }
        assert_eq!(*setting.names_asked.lock(), Vec::<String>::new(), "names were looked up");
    }
}

#[tokio::test]
async fn keys_of_servers_that_are_not_listed_are_neither_fetched_nor_vouched_for() {
    let server = TlsServer::start(&["hs.example"], |_| answer(404, "{}")).await;
    let setting = setting(&server, &[]);
    let notary = setting.peer.clone();
    let config = ServerKeysConfig { notaries: vec![notary.clone()], ..ServerKeysConfig::default() };
    let Setting { client, clock, store, signer, .. } = &setting;
    let keys = ServerKeys::new(signer.clone(), client.clone(), store.clone(), clock.clone(), config);
    let key_id = "ed25519:k".try_into().expect("a key id");
    let elsewhere = server_name!("elsewhere.example");

    // The notary is listed, the other server is not: the notary is not told of it.
    setting.policy.replace(true, &["hs.example".to_owned()], &[]);
    assert!(keys.get_keys_for_request(elsewhere, key_id).await.expect("an answer").is_empty());
    assert!(server.seen().is_empty());
    // The other server is listed, and does not answer; the notary is not.
    setting.clock.advance(100_000);
    setting.policy.replace(true, &["elsewhere.example".to_owned()], &[]);
    assert!(keys.get_keys_for_request(elsewhere, key_id).await.expect("an answer").is_empty());
    assert!(server.seen().is_empty());
    // This server as a notary: asked by anybody, it does not ask on.
    let wanted = NotaryCriteria::default();
    assert!(keys.query_notary([(notary.clone(), wanted)].into()).await.is_empty());
    assert!(server.seen().is_empty());
    assert!(!setting.names_asked.lock().iter().any(|name| name.contains("hs.example")));
}

#[tokio::test]
async fn files_are_not_fetched_from_where_a_listed_server_points_to_outside_the_list() {
    let server = TlsServer::start(&["hs.example", "files.example"], |seen| match seen.path() {
        "/_matrix/federation/v1/media/download/parts" => {
            let location = format!("https://files.example:{}/file", port_of(seen));
            let body = format!(
                "--b\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--b\r\nLocation: {location}\r\n\r\n\r\n--b--"
            );
            let mut parts = answer(200, body);
            parts.headers_mut().insert("content-type", "multipart/mixed; boundary=b".parse().expect("a header value"));
            parts
        }
        path if path.starts_with("/_matrix/media/v3/download/") => {
            let mut redirect = answer(307, "");
            let location = format!("https://files.example:{}/file", port_of(seen));
            redirect.headers_mut().insert("location", location.parse().expect("a header value"));
            redirect
        }
        "/file" => answer(200, "pixels"),
        _ => answer(404, r#"{"errcode":"M_UNRECOGNIZED"}"#),
    })
    .await;
    let setting = setting(&server, &[]);
    let fetched_files = || server.seen().iter().filter(|seen| seen.path() == "/file").count();
    setting.policy.replace(true, &["hs.example".to_owned()], &[]);
    for media_id in ["parts", "old"] {
        assert!(setting.client.fetch_media(&setting.peer, media_id).await.is_err());
    }
    assert_eq!(fetched_files(), 0);
    assert!(!setting.names_asked.lock().contains(&"files.example".to_owned()));
    setting.policy.replace(true, &["hs.example".to_owned(), "files.example".to_owned()], &[]);
    for media_id in ["parts", "old"] {
        assert!(setting.client.fetch_media(&setting.peer, media_id).await.is_ok(), "{media_id}");
    }
    assert_eq!(fetched_files(), 2);
}

fn port_of(seen: &crate::connector::test_server::Seen) -> String {
    let authority = seen.authority().unwrap_or_default();
    authority.rsplit_once(':').map(|(_, port)| port.to_owned()).unwrap_or_default()
}
