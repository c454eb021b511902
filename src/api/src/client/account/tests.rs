use http::{Method, StatusCode};
use ruma::user_id;
use serde_json::json;

use crate::test_app::{TestApp, TestConfig};

const REGISTER: &str = "/_matrix/client/v3/register";

#[tokio::test]
async fn dummy_authentication_without_a_session_registers_in_one_request() {
    let server = TestApp::new();
    let request = json!({
        "username": "Alice", "password": "übers3kr1t", "device_id": "PHONE", "auth": { "type": "m.login.dummy" },
    });
    let (status, answer) = server.post(REGISTER, None, request).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!((&answer["user_id"], &answer["device_id"]), (&"@alice:chappe.example".into(), &"PHONE".into()));
    assert_eq!(answer.get("refresh_token"), None);

    let (status, answer) = server.get("/_matrix/client/r0/account/whoami", answer["access_token"].as_str()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer, json!({ "user_id": "@alice:chappe.example", "device_id": "PHONE" }));
}

#[tokio::test]
async fn registration_without_authentication_gives_flows_and_a_session() {
    let server = TestApp::new();
    let (status, answer) = server.post(REGISTER, None, json!({})).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer["flows"], json!([{ "stages": ["m.login.dummy"] }]));
    assert!(answer["params"].is_object() && answer.get("errcode").is_none());

    let auth = json!({ "type": "m.login.dummy", "session": answer["session"] });
    let (status, answer) =
        server.post(REGISTER, None, json!({ "username": "bob", "password": "x", "auth": auth })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

#[tokio::test]
async fn names_that_cannot_be_had_are_refused() {
    let server = TestApp::new();
    server.register("alice").await;
    for (username, errcode) in [
        ("alice", "M_USER_IN_USE"),
        ("al,ice", "M_INVALID_USERNAME"),
        ("é", "M_INVALID_USERNAME"),
        ("12", "M_INVALID_USERNAME"),
    ] {
        let request = json!({ "username": username, "password": "x", "auth": { "type": "m.login.dummy" } });
        let (status, answer) = server.post(REGISTER, None, request).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &errcode.into()), "{username}");
    }
    let (status, answer) = server.get("/_matrix/client/v3/register/available?username=alice", None).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &"M_USER_IN_USE".into()));
    let (status, answer) = server.get("/_matrix/client/v3/register/available?username=carol", None).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({ "available": true })));
}

#[tokio::test]
async fn inhibited_login_gives_no_token() {
    let server = TestApp::new();
    let request =
        json!({ "username": "alice", "password": "x", "inhibit_login": true, "auth": { "type": "m.login.dummy" } });
    let (status, answer) = server.post(REGISTER, None, request).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((answer.get("access_token"), &answer["user_id"]), (None, &"@alice:chappe.example".into()));
}

#[tokio::test]
async fn guests_are_refused_unless_allowed_and_kept_from_what_is_for_users() {
    let server = TestApp::new();
    let (status, answer) = server.post("/_matrix/client/v3/register?kind=guest", None, json!({})).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &"M_GUEST_ACCESS_FORBIDDEN".into()));

    let mut config = TestConfig::default();
    config.accounts.registration.allow_guests = true;
    let server = TestApp::with(config);
    let (status, answer) = server.post("/_matrix/client/v3/register?kind=guest", None, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let token = answer["access_token"].as_str();
    let (_, answer) = server.get("/_matrix/client/v3/account/whoami", token).await;
    assert_eq!(answer["is_guest"], true);
    let (status, answer) = server.get("/_matrix/client/v3/account/3pid", token).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &"M_GUEST_ACCESS_FORBIDDEN".into()));
}

#[tokio::test]
async fn registration_token_is_asked_for_and_checked() {
    use chappe_services::{registration::RegistrationMode, secret::Secret};
    let mut config = TestConfig::default();
    config.accounts.registration.mode = RegistrationMode::Token;
    config.accounts.registration.token = Some(Secret::new("open sesame"));
    let server = TestApp::with(config);
    let validity = "/_matrix/client/v1/register/m.login.registration_token/validity?token=";
    assert_eq!(server.get(&format!("{validity}open%20sesame"), None).await.1, json!({ "valid": true }));
    assert_eq!(server.get(&format!("{validity}guess"), None).await.1, json!({ "valid": false }));

    let request = |auth| json!({ "username": "alice", "password": "x", "auth": auth });
    let (status, answer) = server.post(REGISTER, None, request(json!({ "type": "m.login.dummy" }))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    let guess = json!({ "type": "m.login.registration_token", "token": "guess" });
    let (status, answer) = server.post(REGISTER, None, request(guess)).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &"M_UNAUTHORIZED".into()));
    let right = json!({ "type": "m.login.registration_token", "token": "open sesame", "session": answer["session"] });
    assert_eq!(server.post(REGISTER, None, request(right)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn shared_secret_needs_a_nonce_and_the_right_mac() {
    let server = TestApp::new();
    let path = "/_synapse/admin/v1/register";
    let mac = |nonce: &str, secret: &str| {
        use chappe_services::registration::{SharedSecretRegistration, shared_secret_mac_hex};
        let registration = SharedSecretRegistration {
            nonce: nonce.to_owned(),
            username: "Root".to_owned(),
            password: "pw".to_owned(),
            admin: true,
            user_type: None,
            mac: String::new(),
        };
        shared_secret_mac_hex(&chappe_services::secret::Secret::new(secret), &registration).unwrap()
    };
    let request = |nonce: &str, secret: &str| json!({ "nonce": nonce, "username": "Root", "password": "pw", "admin": true, "mac": mac(nonce, secret) });
    let nonce = server.get(path, None).await.1["nonce"].as_str().unwrap().to_owned();
    let (status, answer) = server.post(path, None, request(&nonce, "wrong")).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &"M_FORBIDDEN".into()));
    assert_eq!(
        server.post(path, None, request(&nonce, "shared")).await.0,
        StatusCode::BAD_REQUEST,
        "a nonce is good once"
    );

    let nonce = server.get(path, None).await.1["nonce"].as_str().unwrap().to_owned();
    let (status, answer) = server.post(path, None, request(&nonce, "shared")).await;
    assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &"@root:chappe.example".into()));
    assert!(server.app.accounts.get_account(user_id!("@root:chappe.example")).unwrap().unwrap().admin);
    assert_eq!(server.post(path, None, json!({ "nonce": 1 })).await.1["errcode"], "M_BAD_JSON");
}

#[tokio::test]
async fn changed_password_ends_other_sessions_by_default() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let login = |password: &str| json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": password });
    let (_, other) = server.post("/_matrix/client/v3/login", None, login("secret")).await;
    // The older form of the stage, with `user`.
    let auth =
        |password: &str| json!({ "type": "m.login.password", "user": "@alice:chappe.example", "password": password });
    let change = |old: &str, new: &str| json!({ "new_password": new, "auth": auth(old) });

    let path = "/_matrix/client/v3/account/password";
    assert_eq!(server.post(path, None, change("secret", "new")).await.1["errcode"], "M_MISSING_TOKEN");
    let (status, answer) = server.post(path, Some(&token), change("wrong", "new")).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &"M_FORBIDDEN".into()));
    assert!(answer["session"].is_string() && answer["flows"].is_array());
    assert_eq!(server.post(path, Some(&token), change("secret", "new")).await.0, StatusCode::OK);

    let whoami = "/_matrix/client/v3/account/whoami";
    assert_eq!(server.get(whoami, Some(&token)).await.0, StatusCode::OK);
    assert_eq!(server.get(whoami, other["access_token"].as_str()).await.1["errcode"], "M_UNKNOWN_TOKEN");
    assert_eq!(server.post("/_matrix/client/v3/login", None, login("secret")).await.1["errcode"], "M_FORBIDDEN");
    assert_eq!(server.post("/_matrix/client/v3/login", None, login("new")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn deactivated_account_is_gone_for_good() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let path = "/_matrix/client/v3/account/deactivate";
    assert_eq!(server.post(path, Some(&token), json!({})).await.0, StatusCode::UNAUTHORIZED);
    let auth = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "secret" });
    let (status, answer) = server.post(path, Some(&token), json!({ "auth": auth, "erase": true })).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({ "id_server_unbind_result": "success" })));
    assert_eq!(server.get("/_matrix/client/v3/account/whoami", Some(&token)).await.0, StatusCode::UNAUTHORIZED);
    let login = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "secret" });
    assert_eq!(server.post("/_matrix/client/v3/login", None, login).await.0, StatusCode::FORBIDDEN);
    let again = json!({ "username": "alice", "password": "x", "auth": { "type": "m.login.dummy" } });
    assert_eq!(server.post(REGISTER, None, again).await.1["errcode"], "M_USER_IN_USE");
    assert_eq!(server.get("/_matrix/client/v3/profile/@alice:chappe.example", None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn openid_token_names_its_user() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let path = |user: &str| format!("/_matrix/client/v3/user/{user}/openid/request_token");
    let (status, answer) = server.post(&path("@alice:chappe.example"), Some(&token), json!({})).await;
    assert_eq!((status, &answer["expires_in"]), (StatusCode::OK, &3600.into()));
    let openid = answer["access_token"].as_str().unwrap();
    assert_eq!(server.app.accounts.get_openid_user(openid).unwrap().unwrap(), "@alice:chappe.example");
    server.clock.advance(3_600_000);
    assert_eq!(server.app.accounts.get_openid_user(openid).unwrap(), None);
    assert_eq!(server.post(&path("@bob:chappe.example"), Some(&token), json!({})).await.1["errcode"], "M_FORBIDDEN");
}

#[tokio::test]
async fn malformed_requests_are_told_apart() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let raw = |body: &'static str| http::Request::post(REGISTER).body(axum::body::Body::from(body)).unwrap();
    for (body, errcode) in
        [("{nope", "M_NOT_JSON"), (r#"{"username":7}"#, "M_BAD_JSON"), (r#"{"auth":7}"#, "M_BAD_JSON")]
    {
        let response = server.send(raw(body)).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()["content-type"], "application/json");
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains(errcode), "{body:?}");
    }
    let (status, answer) = server.get("/_matrix/client/v3/register/available", None).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &"M_INVALID_PARAM".into()));
    let (status, answer) =
        server.call(Method::POST, "/_matrix/client/v3/user/alice/openid/request_token", Some(&token), json!({})).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &"M_INVALID_PARAM".into()));
}

#[tokio::test]
async fn guest_becomes_a_user_under_their_own_name() {
    let mut config = TestConfig::default();
    config.accounts.registration.allow_guests = true;
    let server = TestApp::with(config);
    let (_, guest) = server.post("/_matrix/client/v3/register?kind=guest", None, json!({})).await;
    let token = guest["access_token"].as_str().unwrap();
    let name = guest["user_id"].as_str().unwrap().trim_start_matches('@').split(':').next().unwrap().to_owned();
    let request = |username: &str, token: &str| {
        json!({
            "username": username, "password": "secret", "guest_access_token": token, "auth": { "type": "m.login.dummy" }
        })
    };
    let (status, answer) = server.post(REGISTER, None, request("alice", token)).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &"M_FORBIDDEN".into()));
    assert_eq!(server.post(REGISTER, None, request(&name, "nonsense")).await.0, StatusCode::UNAUTHORIZED);
    let (status, user) = server.post(REGISTER, None, request(&name, token)).await;
    assert_eq!((status, &user["user_id"]), (StatusCode::OK, &guest["user_id"]), "{user}");
    let (_, answer) = server.get("/_matrix/client/v3/account/whoami", user["access_token"].as_str()).await;
    assert_eq!(answer.get("is_guest"), None);
    assert_eq!(server.post(REGISTER, None, request(&name, token)).await.0, StatusCode::FORBIDDEN, "no guest any more");
}

#[tokio::test]
async fn weak_passwords_are_refused_with_what_they_lack() {
    use chappe_services::accounts::PasswordPolicy;
    let mut config = TestConfig::default();
    config.accounts.password_policy = PasswordPolicy { length_min: 6, require_digit: true, ..Default::default() };
    let server = TestApp::with(config);
    let (_, policy) = server.get("/_matrix/client/v3/password_policy", None).await;
    assert_eq!(policy, json!({ "m.minimum_length": 6, "m.require_digit": true }));
    for (password, errcode) in [("abc", "M_PASSWORD_TOO_SHORT"), ("abcdefg", "M_PASSWORD_NO_DIGIT")] {
        let request = json!({ "username": "alice", "password": password });
        let (status, answer) = server.post(REGISTER, None, request).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &errcode.into()), "before authentication");
    }
    let request = json!({ "username": "alice", "password": "abcdef1", "auth": { "type": "m.login.dummy" } });
    let (_, alice) = server.post(REGISTER, None, request).await;
    let auth = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "abcdef1"
    });
    let change = json!({ "new_password": "short", "auth": auth });
    let (status, answer) =
        server.post("/_matrix/client/v3/account/password", alice["access_token"].as_str(), change).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &"M_PASSWORD_TOO_SHORT".into()));
}

fn with_terms() -> TestApp {
    use chappe_services::registration::{TermsDocument, TermsPolicy};
    let document = TermsDocument { name: "Charte".to_owned(), url: "https://chappe.example/charte".to_owned() };
    let mut config = TestConfig::default();
    config.accounts.registration.terms = vec![TermsPolicy {
        id: "charter".to_owned(),
        version: "1.0".to_owned(),
        languages: [("fr".to_owned(), document)].into(),
    }];
    TestApp::with(config)
}

#[tokio::test]
async fn terms_are_shown_and_have_to_be_agreed_to() {
    let server = with_terms();
    let request = |auth: serde_json::Value| json!({ "username": "alice", "password": "secret", "auth": auth });
    let (status, answer) = server.post(REGISTER, None, json!({ "username": "alice", "password": "secret" })).await;
    assert_eq!((status, &answer["flows"]), (StatusCode::UNAUTHORIZED, &json!([{ "stages": ["m.login.terms"] }])));
    let document = json!({ "name": "Charte", "url": "https://chappe.example/charte" });
    let policies = json!({ "charter": { "version": "1.0", "fr": document } });
    assert_eq!(answer["params"]["m.login.terms"]["policies"], policies);
    let dummy = request(json!({ "type": "m.login.dummy", "session": answer["session"] }));
    assert_eq!(server.post(REGISTER, None, dummy).await.0, StatusCode::UNAUTHORIZED);
    let agreed = request(json!({ "type": "m.login.terms", "session": answer["session"] }));
    assert_eq!(server.post(REGISTER, None, agreed).await.0, StatusCode::OK);
}

#[tokio::test]
async fn stage_is_completed_on_its_fallback_page() {
    let server = with_terms();
    let request = json!({ "username": "alice", "password": "secret" });
    let (_, answer) = server.post(REGISTER, None, request.clone()).await;
    let session = answer["session"].as_str().unwrap();
    let page = |stage: &str, session: &str| format!("/_matrix/client/v3/auth/{stage}/fallback/web?session={session}");
    let get = http::Request::get(page("m.login.terms", session)).body(axum::body::Body::empty()).unwrap();
    let response = server.send(get).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    let post = http::Request::post(page("m.login.terms", session)).body(axum::body::Body::empty()).unwrap();
    assert_eq!(server.send(post).await.status(), StatusCode::OK);
    let mut request = request;
    request["auth"] = json!({ "session": session });
    assert_eq!(server.post(REGISTER, None, request).await.0, StatusCode::OK);

    for (path, expected) in [
        (page("m.login.terms", "unknown"), StatusCode::BAD_REQUEST),
        (page("m.login.terms", "%3Cscript%3E"), StatusCode::BAD_REQUEST),
        (page("m.login.password", session), StatusCode::NOT_FOUND),
        ("/_matrix/client/v3/auth/m.login.terms/fallback/web".to_owned(), StatusCode::BAD_REQUEST),
    ] {
        let post = http::Request::post(&path).body(axum::body::Body::empty()).unwrap();
        assert_eq!(server.send(post).await.status(), expected, "{path}");
    }
}

/// Sends a message; the answer is its path below `/rooms/{roomId}/event/`.
async fn say(server: &TestApp, token: &str, room: &str, body: &str) -> String {
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{body}");
    let (status, answer) = server.put(&path, Some(token), json!({ "msgtype": "m.text", "body": body })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["event_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn erased_user_is_read_by_those_who_were_there_and_redacted_for_those_who_come_later() {
    let server = TestApp::new();
    let mut tokens = std::collections::BTreeMap::new();
    for name in ["alice", "bob", "carol"] {
        tokens.insert(name, server.register(name).await);
    }
    let (alice, bob, carol) = (&*tokens["alice"], &*tokens["bob"], &*tokens["carol"]);
    let name = "/_matrix/client/v3/profile/@alice:chappe.example/displayname";
    assert_eq!(server.put(name, Some(alice), json!({ "displayname": "Alicia" })).await.0, StatusCode::OK);
    let data = "/_matrix/client/v3/user/@alice:chappe.example/account_data/org.example.a";
    assert_eq!(server.put(data, Some(alice), json!({ "a": 1 })).await.0, StatusCode::OK);
    let (_, uploaded) = server.post("/_matrix/media/v3/upload", Some(alice), json!({ "file": 1 })).await;
    let file = uploaded["content_uri"].as_str().unwrap().trim_start_matches("mxc://").to_owned();
    let file = format!("/_matrix/client/v1/media/download/{file}");
    assert_eq!(server.get(&file, Some(bob)).await.0, StatusCode::OK);

    let (_, made) = server
        .post("/_matrix/client/v3/createRoom", Some(alice), json!({ "preset": "public_chat", "name": "Here" }))
        .await;
    let room = made["room_id"].as_str().unwrap();
    let join = format!("/_matrix/client/v3/join/{room}");
    let before = say(&server, alice, room, "indiscret").await;
    assert_eq!(server.post(&join, Some(bob), json!({})).await.0, StatusCode::OK);
    let edit = json!({
        "msgtype": "m.text", "body": "* corrected", "m.new_content": { "msgtype": "m.text", "body": "corrected" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": before },
    });
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/edit");
    assert_eq!(server.put(&path, Some(alice), edit).await.0, StatusCode::OK);
    let bobs = say(&server, bob, room, "mine").await;

    let auth = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "secret" });
    let erase = json!({ "auth": auth, "erase": true });
    assert_eq!(server.post("/_matrix/client/v3/account/deactivate", Some(alice), erase).await.0, StatusCode::OK);
    assert_eq!(server.post(&join, Some(carol), json!({})).await.0, StatusCode::OK);

    let event = |id: &str| format!("/_matrix/client/v3/rooms/{room}/event/{id}");
    let (_, seen) = server.get(&event(&before), Some(bob)).await;
    assert_eq!(seen["content"]["body"], "indiscret", "he could read it when it was erased: {seen}");
    assert!(!seen["unsigned"]["m.relations"]["m.replace"].is_null(), "{seen}");
    let (status, seen) = server.get(&event(&before), Some(carol)).await;
    assert_eq!((status, &seen["content"]), (StatusCode::OK, &json!({})), "{seen}");
    assert!(seen["unsigned"]["m.relations"]["m.replace"].is_null(), "{seen}");
    assert_eq!(server.get(&event(&bobs), Some(carol)).await.1["content"]["body"], "mine");

    let messages = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=50");
    let page = server.get(&messages, Some(carol)).await.1.to_string();
    for gone in ["indiscret", "corrected", "Alicia"] {
        assert!(!page.contains(gone), "{gone} is still in {page}");
    }
    assert!(page.contains("Here") && page.contains("mine"), "the room's own state stays: {page}");
    let page = server.get(&messages, Some(bob)).await.1.to_string();
    assert!(page.contains("indiscret") && page.contains("corrected"), "{page}");
    for filter in ["", "&filter=%7B%22event_format%22%3A%22federation%22%7D"] {
        let sync = server.get(&format!("/_matrix/client/v3/sync?timeout=0{filter}"), Some(carol)).await.1.to_string();
        assert!(sync.contains("mine") && !sync.contains("indiscret"), "{sync}");
    }

    assert_eq!(server.get(&file, Some(bob)).await.0, StatusCode::NOT_FOUND);
    let alice = ruma::user_id!("@alice:chappe.example");
    assert_eq!(server.app.account_data.get(alice, None, "org.example.a").unwrap(), None);
}
