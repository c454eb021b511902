use http::StatusCode;
use serde_json::json;

use crate::test_app::{TestApp, TestConfig};

const LOGIN: &str = "/_matrix/client/v3/login";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

fn password(user: &str, password: &str) -> serde_json::Value {
    json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": user }, "password": password })
}

#[tokio::test]
async fn flows_are_password_token_and_application_service() {
    let (status, answer) = TestApp::new().get(LOGIN, None).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        answer["flows"],
        json!([{ "type": "m.login.password" }, { "type": "m.login.token", "get_login_token": true }, { "type": "m.login.application_service" }])
    );
}

#[tokio::test]
async fn every_form_of_the_user_logs_in() {
    let server = TestApp::new();
    server.register("alice").await;
    for user in ["alice", "@alice:chappe.example", "ALICE", "@ALICE:chappe.example"] {
        let (status, answer) = server.post(LOGIN, None, password(user, "secret")).await;
        assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &"@alice:chappe.example".into()), "{user}");
    }
    let older = json!({ "type": "m.login.password", "user": "alice", "password": "secret", "device_id": "D" });
    let (status, answer) = server.post(LOGIN, None, older).await;
    assert_eq!((status, &answer["device_id"]), (StatusCode::OK, &"D".into()));
    assert_eq!(answer["well_known"]["m.homeserver"]["base_url"], "https://matrix.chappe.example");
}

#[tokio::test]
async fn wrong_password_and_unknown_user_are_answered_alike() {
    let server = TestApp::new();
    server.register("alice").await;
    let wrong = server.post(LOGIN, None, password("alice", "wrong")).await;
    assert_eq!((wrong.0, &wrong.1["errcode"]), (StatusCode::FORBIDDEN, &"M_FORBIDDEN".into()));
    assert_eq!(wrong, server.post(LOGIN, None, password("nobody", "secret")).await);
    assert_eq!(wrong, server.post(LOGIN, None, password("@alice:elsewhere.example", "secret")).await);
}

#[tokio::test]
async fn unknown_login_types_and_missing_fields_are_refused() {
    let server = TestApp::new();
    let (status, answer) = server.post(LOGIN, None, json!({ "type": "org.example.magic" })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &"M_UNKNOWN".into()));
    let (status, answer) = server.post(LOGIN, None, json!({ "type": "m.login.password", "password": "x" })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &"M_MISSING_PARAM".into()));
    let (status, answer) = server.post(LOGIN, None, json!({ "type": "m.login.password", "user": "x" })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &"M_BAD_JSON".into()));
}

#[tokio::test]
async fn logout_ends_the_session_and_its_device() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let (_, other) = server.post(LOGIN, None, password("alice", "secret")).await;
    let other = other["access_token"].as_str();
    assert_eq!(server.post("/_matrix/client/v3/logout", None, json!({})).await.1["errcode"], "M_MISSING_TOKEN");
    assert_eq!(
        server.post("/_matrix/client/v3/logout", Some("nonsense"), json!({})).await.1["errcode"],
        "M_UNKNOWN_TOKEN"
    );
    assert_eq!(server.post("/_matrix/client/v3/logout", other, serde_json::Value::Null).await.0, StatusCode::OK);
    assert_eq!(server.get(WHOAMI, other).await.0, StatusCode::UNAUTHORIZED);
    let (_, devices) = server.get("/_matrix/client/v3/devices", Some(&token)).await;
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    assert_eq!(server.post("/_matrix/client/v3/logout/all", Some(&token), json!({})).await.0, StatusCode::OK);
    assert_eq!(server.get(WHOAMI, Some(&token)).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn expired_token_is_a_soft_logout_and_can_be_refreshed() {
    let server = TestApp::new();
    server.register("alice").await;
    let mut login = password("alice", "secret");
    login["refresh_token"] = true.into();
    let (_, first) = server.post(LOGIN, None, login).await;
    assert_eq!(first["expires_in_ms"], 3_600_000);
    server.clock.advance(3_600_000);
    let (status, answer) = server.get(WHOAMI, first["access_token"].as_str()).await;
    assert_eq!(
        (status, &answer["errcode"], &answer["soft_logout"]),
        (StatusCode::UNAUTHORIZED, &"M_UNKNOWN_TOKEN".into(), &true.into())
    );

    let refresh = "/_matrix/client/v3/refresh";
    let (status, second) = server.post(refresh, None, json!({ "refresh_token": first["refresh_token"] })).await;
    assert_eq!(status, StatusCode::OK, "{second}");
    assert_eq!(server.get(WHOAMI, second["access_token"].as_str()).await.0, StatusCode::OK);
    let (status, answer) = server.post(refresh, None, json!({ "refresh_token": first["refresh_token"] })).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &"M_UNKNOWN_TOKEN".into()));
    assert_eq!(
        server.get(WHOAMI, second["access_token"].as_str()).await.0,
        StatusCode::UNAUTHORIZED,
        "reuse revokes the device's tokens"
    );
    assert_eq!(server.post(refresh, None, json!({ "refresh_token": "nonsense" })).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn login_token_is_good_for_one_login() {
    let server = TestApp::new();
    let token = server.register("alice").await;
    let path = "/_matrix/client/v1/login/get_token";
    assert_eq!(server.post(path, Some(&token), json!({})).await.0, StatusCode::UNAUTHORIZED);
    let auth = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "secret" });
    let (status, answer) = server.post(path, Some(&token), json!({ "auth": auth })).await;
    assert_eq!(status, StatusCode::OK);
    let login = json!({ "type": "m.login.token", "token": answer["login_token"] });
    let (status, answer) = server.post(LOGIN, None, login.clone()).await;
    assert_eq!((status, &answer["user_id"]), (StatusCode::OK, &"@alice:chappe.example".into()));
    assert_eq!(server.post(LOGIN, None, login).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn too_many_logins_are_told_when_to_come_back() {
    let mut config = TestConfig::default();
    config.rate_limits.enabled = true;
    let server = TestApp::with(config);
    server
        .app
        .accounts
        .create_user(&chappe_services::registration::NewAccount {
            username: Some("alice".to_owned()),
            password: Some("secret".to_owned()),
            admin: false,
        })
        .await
        .unwrap();
    for _ in 0..5 {
        assert_eq!(server.post(LOGIN, None, password("alice", "secret")).await.0, StatusCode::OK);
    }
    let (status, answer) = server.post(LOGIN, None, password("alice", "secret")).await;
    assert_eq!((status, &answer["errcode"]), (StatusCode::TOO_MANY_REQUESTS, &"M_LIMIT_EXCEEDED".into()));
    assert!(answer["retry_after_ms"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn fallback_page_logs_in_and_takes_nothing_from_its_address() {
    let server = TestApp::new();
    for path in ["/_matrix/static/client/login/", "/_matrix/static/client/login/?device_id=<script>alert(1)</script>"] {
        let path = path.replace('<', "%3C").replace('>', "%3E");
        let response = server.send(http::Request::get(path).body(axum::body::Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
        let page = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        let page = String::from_utf8(page.to_vec()).unwrap();
        assert!(page.contains("window.matrixLogin.onLogin(response)") && page.contains("/_matrix/client/v3/login"));
        assert!(!page.contains("alert(1)"));
    }
    let post = server.post("/_matrix/static/client/login/", None, json!({})).await;
    assert_eq!(post.0, StatusCode::METHOD_NOT_ALLOWED);
}
