use axum::{Router, routing::put};
use ruma::{event_id, room_id, user_id};

use super::set_typing;
use crate::test_state::{TestState, ask};

const URI: &str = "/rooms/!r:a.example/typing/@alice:a.example";

#[tokio::test]
async fn only_members_say_of_themselves_that_they_type() {
    let state = TestState::new();
    let alice = state.user(user_id!("@alice:a.example")).await;
    let eve = state.user(user_id!("@eve:a.example")).await;
    let room = state.room(room_id!("!r:a.example"), event_id!("$1"), &[user_id!("@alice:a.example")]).await;
    let router = Router::new().route("/rooms/{room}/typing/{user}", put(set_typing::handle)).with_state(state.clone());

    let started = ask(&router, &alice, "PUT", URI, &[], r#"{"typing":true,"timeout":5000}"#).await;
    assert_eq!((started.status.as_u16(), started.json()), (200, serde_json::json!({})));
    assert_eq!(state.typing.current(room).1, [user_id!("@alice:a.example")]);
    assert_eq!(ask(&router, &alice, "PUT", URI, &[], r#"{"typing":false}"#).await.status, 200);
    assert!(state.typing.current(room).1.is_empty());
    assert_eq!(
        ask(&router, &alice, "PUT", URI, &[], r#"{"typing":true}"#).await.status,
        200,
        "the timeout may be left off"
    );

    assert_eq!(
        ask(&router, &eve, "PUT", URI, &[], r#"{"typing":true}"#).await.refusal(),
        (403, "M_FORBIDDEN".to_owned())
    );
    let outsider =
        ask(&router, &eve, "PUT", "/rooms/!r:a.example/typing/@eve:a.example", &[], r#"{"typing":true}"#).await;
    assert_eq!(outsider.refusal(), (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(
        ask(&router, "", "PUT", URI, &[], r#"{"typing":true}"#).await.refusal(),
        (401, "M_MISSING_TOKEN".to_owned())
    );
    assert_eq!(
        ask(&router, &alice, "PUT", URI, &[], r#"{"typing":1}"#).await.refusal(),
        (400, "M_BAD_JSON".to_owned())
    );
    assert_eq!(ask(&router, &alice, "PUT", URI, &[], "{").await.refusal(), (400, "M_NOT_JSON".to_owned()));
}
