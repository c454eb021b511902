use http::StatusCode;
use serde_json::{Value, json};

use crate::test_app::TestApp;

const ALICE: &str = "@alice:chappe.example";
const KEYS: &str = "/_matrix/client/v3/keys";

fn path(endpoint: &str) -> String {
    format!("{KEYS}/{endpoint}")
}

async fn device_of(server: &TestApp, token: &str) -> String {
    let answer = server.get("/_matrix/client/v3/account/whoami", Some(token)).await.1;
    answer["device_id"].as_str().unwrap().to_owned()
}

fn device_keys(user: &str, device: &str) -> Value {
    json!({
        "user_id": user,
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("ed25519:{device}"): "abc", format!("curve25519:{device}"): "def" },
        "signatures": { user: { format!("ed25519:{device}"): "sig" } },
    })
}

#[tokio::test]
async fn uploaded_keys_are_queried_and_claimed_by_others() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let device = device_of(&server, &alice).await;
    let upload = json!({
        "device_keys": device_keys(ALICE, &device),
        "one_time_keys": { "signed_curve25519:AAAAAQ": { "key": "one", "signatures": {} } },
    });
    let (status, answer) = server.post(&path("upload"), Some(&alice), upload.clone()).await;
    assert_eq!((status, &answer["one_time_key_counts"]["signed_curve25519"]), (StatusCode::OK, &json!(1)), "{answer}");
    assert_eq!(server.post(&path("upload"), Some(&alice), upload).await.0, StatusCode::OK);

    let (status, answer) = server.post(&path("query"), Some(&bob), json!({ "device_keys": { ALICE: [] } })).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["device_keys"][ALICE][&device]["keys"], device_keys(ALICE, &device)["keys"]);
    assert_eq!((&answer["failures"], &answer["user_signing_keys"]), (&json!({}), &json!({})));

    let claim = json!({ "one_time_keys": { ALICE: { device.as_str(): "signed_curve25519" } } });
    let (_, answer) = server.post(&path("claim"), Some(&bob), claim.clone()).await;
    assert_eq!(answer["one_time_keys"][ALICE][&device]["signed_curve25519:AAAAAQ"]["key"], "one");
    let (status, answer) = server.post(&path("claim"), Some(&bob), claim).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({ "failures": {}, "one_time_keys": {} })));
}

#[tokio::test]
async fn sync_tells_how_many_keys_are_left_now_and_messages_once() {
    let server = TestApp::new();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let device = device_of(&server, &alice).await;
    let sync = async |since: &Value| {
        let since = since.as_str().map(|token| format!("?since={token}")).unwrap_or_default();
        let (status, answer) = server.get(&format!("/_matrix/client/v3/sync{since}"), Some(&alice)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    let left = |answer: &Value| answer["device_one_time_keys_count"]["signed_curve25519"].clone();
    let first = sync(&Value::Null).await;
    let second = sync(&first["next_batch"]).await;
    assert_eq!((left(&first), left(&second)), (json!(0), json!(0)));

    let upload = json!({
        "device_keys": device_keys(ALICE, &device),
        "one_time_keys": { "signed_curve25519:A": { "key": "one" }, "signed_curve25519:B": { "key": "two" } },
        "fallback_keys": { "signed_curve25519:F": { "key": "last", "fallback": true } },
    });
    assert_eq!(server.post(&path("upload"), Some(&alice), upload).await.0, StatusCode::OK);
    let third = sync(&second["next_batch"]).await;
    assert_eq!(left(&third), json!(2));
    assert_eq!(third["device_unused_fallback_key_types"], json!(["signed_curve25519"]));

    let claim = json!({ "one_time_keys": { ALICE: { device.as_str(): "signed_curve25519" } } });
    for left_then in [1, 0, 0] {
        assert_eq!(server.post(&path("claim"), Some(&bob), claim.clone()).await.0, StatusCode::OK);
        assert_eq!(left(&sync(&third["next_batch"]).await), json!(left_then));
    }
    let mut last = sync(&third["next_batch"]).await;
    assert_eq!(last["device_unused_fallback_key_types"], json!([]), "given out, when there was nothing else");

    for number in 0..3 {
        let message = json!({ "messages": { ALICE: { device.as_str(): { "number": number } } } });
        let to_device = format!("/_matrix/client/v3/sendToDevice/org.example.told/{number}");
        assert_eq!(server.put(&to_device, Some(&bob), message).await.0, StatusCode::OK);
        let told = sync(&last["next_batch"]).await;
        assert_eq!(told["to_device"]["events"].as_array().map(Vec::len), Some(1), "{told}");
        assert_eq!(told["to_device"]["events"][0]["content"]["number"], json!(number));
        let again = sync(&last["next_batch"]).await;
        assert_eq!(again["to_device"], told["to_device"], "not acknowledged yet");
        last = sync(&told["next_batch"]).await;
        assert!(last.get("to_device").is_none(), "{last}");
    }
}

#[tokio::test]
async fn malformed_and_foreign_keys_are_refused() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let device = device_of(&server, &alice).await;
    let upload = |device_keys: Value| json!({ "device_keys": device_keys });
    for (body, errcode) in [
        (upload(device_keys("@bob:chappe.example", &device)), "M_BAD_JSON"),
        (upload(device_keys(ALICE, "OTHER")), "M_BAD_JSON"),
        (
            upload(json!({ "user_id": ALICE, "device_id": device, "algorithms": ["x"], "keys": { "x": 1 } })),
            "M_BAD_JSON",
        ),
        (json!({ "one_time_keys": { "signed_curve25519:A": 7 } }), "M_BAD_JSON"),
    ] {
        let (status, answer) = server.post(&path("upload"), Some(&alice), body.clone()).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!(errcode)), "{body}");
    }
    let one_time_key = |key: &str| json!({ "one_time_keys": { "signed_curve25519:A": { "key": key } } });
    assert_eq!(server.post(&path("upload"), Some(&alice), one_time_key("a")).await.0, StatusCode::OK);
    let (status, answer) = server.post(&path("upload"), Some(&alice), one_time_key("b")).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
    for endpoint in ["upload", "query", "claim", "signatures/upload", "device_signing/upload"] {
        assert_eq!(server.post(&path(endpoint), None, json!({})).await.1["errcode"], "M_MISSING_TOKEN", "{endpoint}");
    }
}

#[tokio::test]
async fn only_replacing_cross_signing_keys_asks_for_the_password() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let master = |key: &str| json!({ "master_key": { "user_id": ALICE, "usage": ["master"], "keys": { format!("ed25519:{key}"): key } } });
    let upload = path("device_signing/upload");
    assert_eq!(server.post(&upload, Some(&alice), master("one")).await.0, StatusCode::OK);
    assert_eq!(server.post(&upload, Some(&alice), master("one")).await.0, StatusCode::OK);
    let (status, answer) = server.post(&upload, Some(&alice), master("two")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let mut body = master("two");
    body["auth"] = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "secret",
        "session": answer["session"],
    });
    let (status, answer) = server.post(&upload, Some(&alice), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let answer = server.post(&path("query"), Some(&alice), json!({ "device_keys": { ALICE: [] } })).await.1;
    assert_eq!(answer["master_keys"][ALICE]["keys"], json!({ "ed25519:two": "two" }));
}

#[tokio::test]
async fn a_signature_of_nothing_known_is_named_as_failed() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let (status, answer) =
        server.post(&path("signatures/upload"), Some(&alice), json!({ ALICE: { "GONE": {} } })).await;
    assert_eq!(
        (status, &answer["failures"][ALICE]["GONE"]["errcode"]),
        (StatusCode::OK, &json!("M_NOT_FOUND")),
        "{answer}"
    );
}

#[tokio::test]
async fn changes_are_told_between_sync_tokens_only() {
    let server = TestApp::new();
    let alice = server.register("alice").await;
    let (status, answer) = server.get(&path("changes?from=s0_0_0_0&to=s999"), Some(&alice)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer, json!({ "changed": [ALICE], "left": [] }));
    let (status, answer) = server.get(&path("changes?from=x&to=s9"), Some(&alice)).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")));
}
