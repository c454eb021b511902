use chappe_protocol::{clock::ManualClock, room_version};
use http::Method;
use ruma::{CanonicalJsonValue, RoomVersionId, server_name};
use serde_json::json;

use super::*;
use crate::{
    connector::test_server::{TlsServer, answer},
    federation::{
        client::tests::{Setting, setting},
        incoming::{RequestRejection, RequestVerifier},
        xmatrix::SignedRequest,
    },
    policy::FederationPolicy,
};

const DAY_MS: u64 = 24 * 3_600_000;

/// A server that publishes its keys.
struct Peer {
    server: TlsServer,
    setting: Setting,
    /// What it says in `valid_until_ts`.
    valid_until_ms: Arc<AtomicU64>,
}

fn peer_signer(name: &ServerName) -> ServerSigner {
    ServerSigner::from_seed(name.to_owned(), "p1", &[2; 32]).expect("a signer")
}

impl Peer {
    async fn start() -> Self {
        let valid_until_ms = Arc::new(AtomicU64::new(1_700_000_000_000 + DAY_MS));
        let valid = valid_until_ms.clone();
        let server = TlsServer::start(&["hs.example"], move |seen| {
            let name: OwnedServerName = seen.authority().unwrap_or_default().try_into().expect("a server name");
            assert_eq!(seen.path(), "/_matrix/key/v2/server");
            answer(
                200,
                document::write_own(&peer_signer(&name), &[], valid.load(Ordering::SeqCst)).expect("a document"),
            )
        })
        .await;
        let setting = setting(&server, &[]);
        Self { server, setting, valid_until_ms }
    }

    fn keys(&self, config: ServerKeysConfig) -> ServerKeys {
        let Setting { client, clock, store, signer, .. } = &self.setting;
        ServerKeys::new(signer.clone(), client.clone(), store.clone(), clock.clone(), config)
    }

    fn fetches(&self) -> usize {
        self.server.seen().len()
    }

    fn clock(&self) -> &ManualClock {
        &self.setting.clock
    }
}

fn key_id(text: &str) -> OwnedServerSigningKeyId {
    text.try_into().expect("a key id")
}

#[tokio::test]
async fn key_is_fetched_once_however_many_ask_and_kept_over_a_restart() {
    let peer = Peer::start().await;
    let keys = peer.keys(ServerKeysConfig::default());
    let id = key_id("ed25519:p1");
    let ask = || keys.get_keys_for_request(&peer.setting.peer, &id);
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    for found in [a, b, c] {
        assert_eq!(found.expect("keys"), peer_signer(&peer.setting.peer).public_keys());
    }
    assert_eq!(peer.fetches(), 1);
    let restarted = peer.keys(ServerKeysConfig::default());
    assert!(!restarted.get_keys_for_request(&peer.setting.peer, &id).await.expect("keys").is_empty());
    assert_eq!(peer.fetches(), 1);
}

#[tokio::test]
async fn expired_key_is_fetched_again_and_refused_while_it_stays_expired() {
    let peer = Peer::start().await;
    let keys = peer.keys(ServerKeysConfig::default());
    let id = key_id("ed25519:p1");
    let ask = async || keys.get_keys_for_request(&peer.setting.peer, &id).await.expect("an answer");
    assert!(!ask().await.is_empty());
    peer.clock().advance(DAY_MS + 1);
    assert!(ask().await.is_empty(), "still the old document");
    assert_eq!(peer.fetches(), 2);
    assert!(ask().await.is_empty());
    assert_eq!(peer.fetches(), 2, "not asked again at once");
    peer.valid_until_ms.store(peer.clock().now_ms() + DAY_MS, Ordering::SeqCst);
    peer.clock().advance(5_000);
    assert!(!ask().await.is_empty());
}

#[tokio::test]
async fn unknown_key_id_does_not_make_us_ask_each_time() {
    let peer = Peer::start().await;
    let keys = peer.keys(ServerKeysConfig::default());
    for _ in 0..5 {
        let found = keys.get_keys_for_request(&peer.setting.peer, &key_id("ed25519:none")).await.expect("an answer");
        assert!(found.is_empty());
    }
    assert_eq!(peer.fetches(), 1);
}

#[tokio::test]
async fn denied_key_is_never_given_out() {
    let peer = Peer::start().await;
    let denied_keys = vec![(peer.setting.peer.clone(), key_id("ed25519:p1"))];
    let keys = peer.keys(ServerKeysConfig { denied_keys, ..ServerKeysConfig::default() });
    let found = keys.get_keys_for_request(&peer.setting.peer, &key_id("ed25519:p1")).await.expect("an answer");
    assert!(found.is_empty());
}

#[tokio::test]
async fn of_a_pinned_server_only_the_pinned_keys_are_believed_and_none_are_fetched() {
    let peer = Peer::start().await;
    let pinned = ServerSigner::from_seed(peer.setting.peer.clone(), "pinned", &[3; 32]).expect("a signer");
    let bytes_of = |signer: &ServerSigner| {
        let key: Base64 = Base64::parse(signer.verify_key_base64()).expect("base64");
        key.into_inner()
    };
    let with_pins = |keys: PinnedKeys| {
        let pinned_keys = BTreeMap::from([(peer.setting.peer.clone(), keys)]);
        peer.keys(ServerKeysConfig { pinned_keys, ..ServerKeysConfig::default() })
    };
    let keys = with_pins([(key_id("ed25519:pinned"), bytes_of(&pinned))].into());
    let ask = async |id: &str| keys.get_keys_for_request(&peer.setting.peer, &key_id(id)).await.expect("an answer");
    assert_eq!(ask("ed25519:pinned").await, pinned.public_keys());
    assert!(ask("ed25519:p1").await.is_empty(), "what the server itself publishes does not count");
    assert_eq!(peer.fetches(), 0);

    // A request signed with the key that the server publishes is not from it; one signed with the pinned key is.
    let verifier = RequestVerifier::new(
        ruma::owned_server_name!("own.example"),
        keys.clone(),
        peer.setting.policy.clone(),
        peer.setting.client.destinations().clone(),
    );
    let request = SignedRequest {
        method: "GET",
        uri: "/x",
        origin: &peer.setting.peer,
        destination: server_name!("own.example"),
        content: None,
    };
    let theirs = request.sign(&peer_signer(&peer.setting.peer));
    let refused = verifier.verify([theirs.as_str()], &Method::GET, "/x", None).await;
    assert!(matches!(refused, Err(RequestRejection::NoKey(_))));
    let forged =
        request.sign(&ServerSigner::from_seed(peer.setting.peer.clone(), "pinned", &[4; 32]).expect("a signer"));
    let refused = verifier.verify([forged.as_str()], &Method::GET, "/x", None).await;
    assert!(matches!(refused, Err(RequestRejection::Signature(_))));
    let good = request.sign(&pinned);
    assert!(verifier.verify([good.as_str()], &Method::GET, "/x", None).await.is_ok());

    // Nor are events signed with it taken in, however old they are.
    let event = |id: &str| {
        let event = json!({
            "type": "m.room.message",
            "sender": format!("@u:{}", peer.setting.peer),
            "signatures": { peer.setting.peer.as_str(): { id: "AAAA" } },
        });
        let Ok(CanonicalJsonValue::Object(event)) = CanonicalJsonValue::try_from(event) else { panic!("an object") };
        event
    };
    let rules = room_version::rules(&RoomVersionId::V11).expect("a known version");
    let found = async |id: &str| keys.get_keys_for_event(&event(id), &rules, 1_000).await.expect("an answer");
    assert_eq!(found("ed25519:pinned").await, pinned.public_keys());
    assert!(found("ed25519:p1").await.is_empty());
    assert_eq!(peer.fetches(), 0);

    // This server does not vouch for other keys either.
    let wanted = || BTreeMap::from([(peer.setting.peer.clone(), NotaryCriteria::default())]);
    assert!(keys.query_notary(wanted()).await.is_empty());
    let published = bytes_of(&peer_signer(&peer.setting.peer));
    let as_published = with_pins([(key_id("ed25519:p1"), published)].into());
    assert_eq!(as_published.query_notary(wanted()).await.len(), 1);
}

#[tokio::test]
async fn keys_are_pinned_and_let_go_while_the_server_runs() {
    let peer = Peer::start().await;
    let keys = peer.keys(ServerKeysConfig::default());
    let published = peer_signer(&peer.setting.peer).public_keys();
    let pinned = ServerSigner::from_seed(peer.setting.peer.clone(), "pinned", &[3; 32]).expect("a signer");
    let key: Base64 = Base64::parse(pinned.verify_key_base64()).expect("base64");
    let ask = async |id: &str| keys.get_keys_for_request(&peer.setting.peer, &key_id(id)).await.expect("an answer");
    assert_eq!(ask("ed25519:p1").await, published);

    let pins = PinnedKeys::from([(key_id("ed25519:pinned"), key.into_inner())]);
    keys.clone().replace_pinned_keys([(peer.setting.peer.clone(), pins)].into());
    assert!(ask("ed25519:p1").await.is_empty(), "known before, and not believed any more");
    assert_eq!(ask("ed25519:pinned").await, pinned.public_keys());

    keys.replace_pinned_keys(BTreeMap::new());
    assert_eq!(ask("ed25519:p1").await, published);
}

#[tokio::test]
async fn key_counts_for_events_of_its_time_from_room_version_5() {
    let peer = Peer::start().await;
    let keys = peer.keys(ServerKeysConfig::default());
    let sender = format!("@u:{}", peer.setting.peer);
    let event = json!({
        "type": "m.room.message",
        "sender": sender,
        "signatures": { peer.setting.peer.as_str(): { "ed25519:p1": "AAAA" } },
    });
    let Ok(CanonicalJsonValue::Object(event)) = CanonicalJsonValue::try_from(event) else { panic!("an object") };
    let found = async |version: RoomVersionId, sent_ms: u64| {
        let rules = room_version::rules(&version).expect("a known version");
        !keys.get_keys_for_event(&event, &rules, sent_ms).await.expect("an answer").is_empty()
    };
    let now_ms = peer.clock().now_ms();
    assert!(found(RoomVersionId::V10, now_ms).await);
    assert!(!found(RoomVersionId::V10, now_ms + 2 * DAY_MS).await);
    assert!(found(RoomVersionId::V4, now_ms + 2 * DAY_MS).await);
}

#[tokio::test]
async fn notary_answer_bears_both_signatures() {
    let peer = Peer::start().await;
    let keys = peer.keys(ServerKeysConfig::default());
    let wanted = BTreeMap::from([
        (peer.setting.peer.clone(), NotaryCriteria::default()),
        (ruma::owned_server_name!("own.example"), NotaryCriteria::default()),
        (ruma::owned_server_name!("127.0.0.1:1"), NotaryCriteria::default()),
    ]);
    let documents = keys.query_notary(wanted).await;
    assert_eq!(documents.len(), 2);
    let of_peer = documents.iter().find(|document| document.get().contains("ed25519:p1")).expect("the peer's document");
    assert!(KeyDocument::verify(of_peer.get(), &peer.setting.peer).is_ok());
    let object = chappe_protocol::json::parse_strict(of_peer.get()).expect("canonical JSON");
    assert!(chappe_protocol::sign::verify_json("own.example", &peer.setting.signer.public_keys(), &object).is_ok());
}

#[tokio::test]
async fn request_is_believed_only_with_a_good_signature_for_this_server() {
    let peer = Peer::start().await;
    let keys = peer.keys(ServerKeysConfig::default());
    let own_name = ruma::owned_server_name!("own.example");
    let policy = |deny: &[String]| Arc::new(FederationPolicy::new(own_name.clone(), true, &[], deny));
    let verifier = |policy| {
        RequestVerifier::new(own_name.clone(), keys.clone(), policy, peer.setting.client.destinations().clone())
    };
    let signed = |destination| {
        let request =
            SignedRequest { method: "GET", uri: "/x?y=1", origin: &peer.setting.peer, destination, content: None };
        request.sign(&peer_signer(&peer.setting.peer))
    };
    let open = verifier(policy(&[]));
    let good = signed(server_name!("own.example"));
    let origin = open.verify([good.as_str()], &Method::GET, "/x?y=1", None).await.expect("a good signature");
    assert_eq!(origin, peer.setting.peer);
    let also_good = open.verify(["X-Matrix nonsense", good.as_str()], &Method::GET, "/x?y=1", None).await;
    assert!(also_good.is_ok());
    // As older servers write it: without the parameter, with the destination signed all the same.
    let without = good.replace(r#"destination="own.example","#, "");
    assert!(open.verify([without.as_str()], &Method::GET, "/x?y=1", None).await.is_ok());

    let other_path = open.verify([good.as_str()], &Method::GET, "/x?y=2", None).await;
    assert!(matches!(other_path, Err(RequestRejection::Signature(_))));
    let with_body = open.verify([good.as_str()], &Method::GET, "/x?y=1", Some(&json!({}))).await;
    assert!(matches!(with_body, Err(RequestRejection::Signature(_))));
    let elsewhere = signed(server_name!("else.example"));
    let elsewhere = open.verify([elsewhere.as_str()], &Method::GET, "/x?y=1", None).await;
    assert!(matches!(elsewhere, Err(RequestRejection::OtherDestination(_))));
    assert!(matches!(open.verify([], &Method::GET, "/x", None).await, Err(RequestRejection::Unsigned)));
    let unknown_key = good.replace("ed25519:p1", "ed25519:p2");
    let unknown_key = open.verify([unknown_key.as_str()], &Method::GET, "/x?y=1", None).await;
    assert!(matches!(unknown_key, Err(RequestRejection::NoKey(_))));
    let closed = verifier(policy(&["hs.example".to_owned()]));
    let denied = closed.verify([good.as_str()], &Method::GET, "/x?y=1", None).await;
    assert!(matches!(denied, Err(RequestRejection::Policy(_))));
}
