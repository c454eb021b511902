use chappe_services::{emails::ValidatedEmail, push::pushers::PusherKey};
use http::StatusCode;
use serde_json::{Value as JsonValue, json};

use crate::{
    test_app::{TestApp, TestConfig},
    test_smtp::{self, SmtpServer},
};

const ADD: &str = "/_matrix/client/v3/account/3pid/add";
const LIST: &str = "/_matrix/client/v3/account/3pid";

async fn server() -> (TestApp, SmtpServer) {
    let smtp = SmtpServer::start(0).await;
    let mail = Some(test_smtp::config("chappe.example", smtp.port));
    (TestApp::with(TestConfig { mail, ..TestConfig::default() }), smtp)
}

fn refusal((status, answer): &(StatusCode, JsonValue)) -> (u16, &str) {
    (status.as_u16(), answer["errcode"].as_str().unwrap_or_default())
}

fn asking(address: &str) -> JsonValue {
    json!({ "client_secret": "abcd", "email": address, "send_attempt": 1 })
}

/// Asks for a mail, opens its link and presses the button; the answer is the session id.
async fn prove(server: &TestApp, smtp: &SmtpServer, what: &str, address: &str) -> String {
    let before = smtp.received().len();
    let path = format!("/_matrix/client/v3/{what}/email/requestToken");
    let (status, answer) = server.post(&path, None, asking(address)).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let mail = smtp.wait(before + 1).await.remove(before);
    assert_eq!(mail.to, [address]);
    let link = mail.link();
    let (path, query) = link.strip_prefix("https://matrix.chappe.example").unwrap().split_once('?').unwrap();
    let page =
        server.send(http::Request::get(format!("{path}?{query}")).body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(page.status(), StatusCode::OK);
    let request = http::Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(axum::body::Body::from(query.to_owned()))
        .unwrap();
    assert_eq!(server.send(request).await.status(), StatusCode::OK);
    answer["sid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn address_is_added_by_who_reads_it_and_knows_the_password_and_taken_away_again() {
    let (server, smtp) = server().await;
    let alice = server.register("alice").await;
    let sid = prove(&server, &smtp, "account/3pid", "alice@mail.example").await;
    let auth = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "secret" });
    let body = json!({ "sid": sid, "client_secret": "abcd", "auth": auth });
    assert_eq!(refusal(&server.post(ADD, None, body.clone()).await), (401, "M_MISSING_TOKEN"));
    let wrong = json!({ "sid": sid, "client_secret": "other", "auth": auth });
    assert_eq!(refusal(&server.post(ADD, Some(&alice), wrong).await), (400, "M_THREEPID_AUTH_FAILED"));
    let (status, answer) = server.post(ADD, Some(&alice), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, answer) = server.get(LIST, Some(&alice)).await;
    assert_eq!(answer["threepids"][0]["address"], "alice@mail.example");
    assert_eq!(answer["threepids"][0]["medium"], "email");

    let delete = json!({ "medium": "email", "address": "alice@mail.example" });
    let (status, answer) = server.post("/_matrix/client/v3/account/3pid/delete", Some(&alice), delete).await;
    assert_eq!((status, &answer["id_server_unbind_result"]), (StatusCode::OK, &json!("no-support")));
    let (_, answer) = server.get(LIST, Some(&alice)).await;
    assert_eq!(answer["threepids"], json!([]));
}

#[tokio::test]
async fn account_registered_with_an_address_logs_in_by_it_and_gets_a_new_password() {
    let (server, smtp) = server().await;
    let register = "/_matrix/client/v3/register";
    let (_, answer) = server.post(register, None, json!({})).await;
    assert_eq!(answer["flows"], json!([{ "stages": ["m.login.dummy"] }, { "stages": ["m.login.email.identity"] }]));
    let by_email = |sid: &str, session: &JsonValue| {
        json!({
            "type": "m.login.email.identity",
            "threepid_creds": { "sid": sid, "client_secret": "abcd" },
            "session": session,
        })
    };
    let sid = prove(&server, &smtp, "register", "bob@mail.example").await;
    let body = json!({ "username": "bob", "password": "first", "auth": by_email(&sid, &answer["session"]) });
    let (status, answer) = server.post(register, None, body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let login = |password: &str| {
        json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": "Bob@mail.example" },
            "password": password,
        })
    };
    let (status, answer) = server.post("/_matrix/client/v3/login", None, login("first")).await;
    assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &json!("@bob:chappe.example")), "{answer}");
    let old = answer["access_token"].as_str().unwrap().to_owned();

    let password = "/_matrix/client/v3/account/password";
    let (status, challenge) = server.post(password, None, json!({ "new_password": "second" })).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let unproven = json!({ "new_password": "second", "auth": by_email(&sid, &challenge["session"]) });
    assert_eq!(
        refusal(&server.post(password, None, unproven).await),
        (401, "M_THREEPID_AUTH_FAILED"),
        "a proof made for registering opens nothing else"
    );
    let sid = prove(&server, &smtp, "account/password", "bob@mail.example").await;
    let proven = json!({ "new_password": "second", "auth": by_email(&sid, &challenge["session"]) });
    let (status, answer) = server.post(password, None, proven).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(server.post("/_matrix/client/v3/login", None, login("second")).await.0, StatusCode::OK);
    assert_eq!(refusal(&server.post("/_matrix/client/v3/login", None, login("first")).await), (403, "M_FORBIDDEN"));
    assert_eq!(refusal(&server.get(LIST, Some(&old)).await), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn address_is_added_by_the_older_endpoint_too() {
    let (server, smtp) = server().await;
    let alice = server.register("alice").await;
    let sid = prove(&server, &smtp, "account/3pid", "alice@mail.example").await;
    let body = json!({ "three_pid_creds": { "sid": sid, "client_secret": "abcd" } });
    assert_eq!(refusal(&server.post(LIST, None, body.clone()).await), (401, "M_MISSING_TOKEN"));
    assert_eq!(refusal(&server.post(LIST, Some(&alice), json!({})).await), (400, "M_MISSING_PARAM"));
    let (status, answer) = server.post(LIST, Some(&alice), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(server.get(LIST, Some(&alice)).await.1["threepids"][0]["address"], "alice@mail.example");
}

#[tokio::test]
async fn email_stage_is_completed_on_its_fallback_page() {
    let (server, smtp) = server().await;
    let register = "/_matrix/client/v3/register";
    let account = json!({ "username": "bob", "password": "secret" });
    let (_, challenge) = server.post(register, None, account.clone()).await;
    let session = challenge["session"].as_str().unwrap();
    let fallback =
        |session: &str| format!("/_matrix/client/v3/auth/m.login.email.identity/fallback/web?session={session}");
    let ask = async |method: &str, path: &str, form: &str| {
        let request = http::Request::builder().method(method).uri(path);
        let answer = server.send(request.body(axum::body::Body::from(form.to_owned())).unwrap()).await;
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 100_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    let page = fallback(session);
    let (status, shown) = ask("GET", &page, "").await;
    assert!(status == 200 && shown.contains("name=\"email\""), "{shown}");
    assert!(ask("POST", &page, "email=nonsense").await.1.contains("not an email address"));
    assert_eq!(ask("POST", &fallback("unknown"), "email=bob%40mail.example").await.0, 400);

    let (status, shown) = ask("POST", &page, "email=bob%40mail.example").await;
    assert_eq!(status, 200, "{shown}");
    let hidden = |name: &str| {
        let value = shown.split_once(&format!("name=\"{name}\" value=\"")).unwrap().1;
        value.split_once('"').unwrap().0.to_owned()
    };
    let begun = format!("sid={}&client_secret={}", hidden("sid"), hidden("client_secret"));
    assert!(ask("POST", &page, &begun).await.1.contains("not been opened yet"));
    let unproven = json!({ "username": "bob", "password": "secret", "auth": { "session": session } });
    assert_eq!(server.post(register, None, unproven.clone()).await.0, StatusCode::UNAUTHORIZED);

    let mail = smtp.wait(1).await.remove(0);
    let link = mail.link();
    let (path, query) = link.strip_prefix("https://matrix.chappe.example").unwrap().split_once('?').unwrap();
    assert_eq!(ask("POST", path, query).await.0, 200);
    let wrong = format!("sid={}&client_secret=guess", hidden("sid"));
    assert!(ask("POST", &page, &wrong).await.1.contains("ask for another mail"));
    let (status, shown) = ask("POST", &page, &begun).await;
    assert!(status == 200 && shown.contains("onAuthDone"), "{shown}");

    let (status, answer) = server.post(register, None, unproven).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(server.get(LIST, Some(token)).await.1["threepids"][0]["address"], "bob@mail.example");
    let plain = TestApp::new();
    let refused = plain.get(&fallback("abc"), None).await;
    assert_eq!(refusal(&refused), (404, "M_NOT_FOUND"), "without mail there is no such page");
}

#[tokio::test]
async fn what_is_not_offered_is_refused() {
    let plain = TestApp::new();
    let alice = plain.register("alice").await;
    let unsupported = (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED");
    let telephone = json!({ "client_secret": "abcd", "country": "FR", "phone_number": "123", "send_attempt": 1 });
    for what in ["account/3pid", "account/password", "register"] {
        let path = format!("/_matrix/client/v3/{what}");
        let asked = plain.post(&format!("{path}/email/requestToken"), None, asking("a@b.example")).await;
        assert_eq!(refusal(&asked), unsupported, "{what}");
        let asked = plain.post(&format!("{path}/msisdn/requestToken"), None, telephone.clone()).await;
        assert_eq!(refusal(&asked), unsupported, "{what}");
    }
    let bind = json!({ "client_secret": "abcd", "sid": "1", "id_server": "id.example", "id_access_token": "x" });
    let asked = plain.post("/_matrix/client/v3/account/3pid/bind", Some(&alice), bind).await;
    assert_eq!(refusal(&asked), (400, "M_SERVER_NOT_TRUSTED"));
    let unbind = json!({ "medium": "email", "address": "a@b.example" });
    let (status, answer) = plain.post("/_matrix/client/v3/account/3pid/unbind", Some(&alice), unbind).await;
    assert_eq!((status, &answer["id_server_unbind_result"]), (StatusCode::OK, &json!("no-support")));
    assert_eq!(
        refusal(&plain.post("/_matrix/client/v3/account/password", None, json!({ "new_password": "x" })).await),
        (401, "M_MISSING_TOKEN")
    );

    let (server, _smtp) = server().await;
    let path = "/_matrix/client/v3/register/email/requestToken";
    assert_eq!(refusal(&server.post(path, None, asking("no address")).await), (400, "M_INVALID_PARAM"));
    assert_eq!(refusal(&server.post(path, None, json!({})).await).0, 400);
}

#[tokio::test]
async fn mails_can_be_asked_for_only_so_often() {
    let smtp = SmtpServer::start(0).await;
    let mut config = TestConfig { mail: Some(test_smtp::config("chappe.example", smtp.port)), ..TestConfig::default() };
    config.rate_limits.enabled = true;
    config.rate_limits.email_token = crate::rate_limit::Rate { per_second: 0.001, burst: 2 };
    let server = TestApp::with(config);
    let ask = async |address: &str, attempt: u64| {
        let body = json!({ "client_secret": "abcd", "email": address, "send_attempt": attempt });
        server.post("/_matrix/client/v3/register/email/requestToken", None, body).await
    };
    assert_eq!(ask("a@mail.example", 1).await.0, StatusCode::OK);
    assert_eq!(ask("A@mail.example", 2).await.0, StatusCode::OK);
    assert_eq!(refusal(&ask(" a@mail.example", 3).await), (429, "M_LIMIT_EXCEEDED"), "one address is spared");
    assert_eq!(ask("b@mail.example", 1).await.0, StatusCode::OK);
}

#[tokio::test]
async fn proof_makes_one_account_and_an_address_has_one() {
    let (server, smtp) = server().await;
    let register = "/_matrix/client/v3/register";
    let sid = prove(&server, &smtp, "register", "bob@mail.example").await;
    let asking_as = |name: &str| {
        let credentials = json!({ "sid": sid, "client_secret": "abcd" });
        let auth = json!({ "type": "m.login.email.identity", "threepid_creds": credentials });
        json!({ "username": name, "password": "secret", "auth": auth })
    };
    assert_eq!(server.post(register, None, asking_as("bob")).await.0, StatusCode::OK);
    assert_eq!(refusal(&server.post(register, None, asking_as("bob2")).await), (401, "M_THREEPID_AUTH_FAILED"));
}

#[tokio::test]
async fn mails_about_what_is_unread_are_ended_by_their_link() {
    let (server, _smtp) = server().await;
    let alice = server.register("alice").await;
    let user_id = ruma::user_id!("@alice:chappe.example");
    let own = ValidatedEmail { sid: "1".to_owned(), address: "alice@mail.example".to_owned(), validated_ms: 1 };
    server.app.emails.add(user_id, &own).await.unwrap();
    let pusher = json!({
        "app_display_name": "Mail", "app_id": "m.email", "data": {}, "device_display_name": "Mail",
        "kind": "email", "lang": "en", "pushkey": "alice@mail.example",
    });
    assert_eq!(server.post("/_matrix/client/v3/pushers/set", Some(&alice), pusher).await.0, StatusCode::OK);
    let key = PusherKey {
        user_id: user_id.to_owned(),
        app_id: "m.email".to_owned(),
        pushkey: "alice@mail.example".to_owned(),
    };
    let code = server.app.pushers.make_unsubscribe_code(&key).await.unwrap();
    let pushers = async || server.get("/_matrix/client/v3/pushers", Some(&alice)).await.1["pushers"].clone();
    let link = |code: &str| {
        format!("/_chappe/email/unsubscribe?user=@alice:chappe.example&address=alice@mail.example&code={code}")
    };
    let send = async |method: &str, path: String| {
        let request = http::Request::builder().method(method).uri(path);
        server.send(request.body(axum::body::Body::empty()).unwrap()).await.status()
    };
    assert_eq!(send("GET", link(&code)).await, StatusCode::OK);
    assert_eq!(send("POST", link("00")).await, StatusCode::BAD_REQUEST);
    assert_eq!(send("POST", "/_chappe/email/unsubscribe".to_owned()).await, StatusCode::BAD_REQUEST);
    assert_eq!(pushers().await.as_array().unwrap().len(), 1, "asking and guessing end nothing");
    assert_eq!(send("POST", link(&code)).await, StatusCode::OK);
    assert_eq!(pushers().await, json!([]));
    let plain = TestApp::new();
    let request = http::Request::get(link(&code)).body(axum::body::Body::empty()).unwrap();
    assert_eq!(plain.send(request).await.status(), StatusCode::NOT_FOUND, "where no mail is sent there is no page");
}
