use axum::{Router, routing::get};
use ruma::{event_id, room_id, user_id};
use serde_json::json;

use super::{get_presence, set_presence};
use crate::test_state::{TestState, ask};

const URI: &str = "/presence/@alice:a.example/status";

#[tokio::test]
async fn presence_is_set_by_its_user_and_seen_by_those_who_share_a_room() {
    let state = TestState::new();
    let alice = state.user(user_id!("@alice:a.example")).await;
    let carol = state.user(user_id!("@carol:a.example")).await;
    let eve = state.user(user_id!("@eve:a.example")).await;
    let members = [user_id!("@alice:a.example"), user_id!("@carol:a.example")];
    state.room(room_id!("!r:a.example"), event_id!("$1"), &members).await;
    let router = Router::new()
        .route("/presence/{user}/status", get(get_presence::handle).put(set_presence::handle))
        .with_state(state);

    assert_eq!(ask(&router, &alice, "GET", URI, &[], "").await.json()["presence"], "offline");
    let body = r#"{"presence":"online","status_msg":"here"}"#;
    assert_eq!(ask(&router, &alice, "PUT", URI, &[], body).await.status, 200);
    let seen = ask(&router, &carol, "GET", URI, &[], "").await;
    assert_eq!(
        seen.json(),
        json!({ "presence": "online", "status_msg": "here", "last_active_ago": 0, "currently_active": true })
    );

    assert_eq!(ask(&router, &eve, "GET", URI, &[], "").await.refusal(), (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(ask(&router, &eve, "PUT", URI, &[], body).await.refusal(), (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(ask(&router, "", "GET", URI, &[], "").await.refusal(), (401, "M_MISSING_TOKEN".to_owned()));
    let unknown = ask(&router, &alice, "PUT", URI, &[], r#"{"presence":"asleep"}"#).await;
    assert_eq!(unknown.refusal(), (400, "M_INVALID_PARAM".to_owned()));
}
