//! POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync (MSC4186).

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use chappe_services::sliding_sync::{SlidingSync, request::SlidingSyncRequest, response::SlidingSyncResponse};
use ruma::presence::PresenceState;
use serde::Deserialize;

use crate::{
    error::ApiError,
    extract::{Authenticated, JsonBody},
};

/// What clients put into the query; some put it into the body.
#[derive(Deserialize)]
pub struct Parameters {
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<PresenceState>,
}

pub async fn handle(
    State(sliding_sync): State<Arc<SlidingSync>>,
    Authenticated(session): Authenticated,
    parameters: Result<Query<Parameters>, QueryRejection>,
    JsonBody(mut request): JsonBody<SlidingSyncRequest>,
) -> Result<Json<SlidingSyncResponse>, ApiError> {
    let Query(parameters) = parameters.map_err(|error| ApiError::invalid_param(error.body_text()))?;
    request.pos = parameters.pos.or(request.pos).filter(|pos| !pos.is_empty());
    request.timeout = parameters.timeout.or(request.timeout);
    request.set_presence = parameters.set_presence.or(request.set_presence);
    Ok(Json(sliding_sync.sync(&session.user_id, &session.device_id, request).await?))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::{Value as JsonValue, json};

    use crate::test_app::TestApp;

    const SYNC: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

    fn all_rooms() -> JsonValue {
        json!({ "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 3, "required_state": [["m.room.name", ""]] } } })
    }

    #[tokio::test]
    async fn room_is_told_once_and_then_what_is_new() {
        let app = TestApp::new();
        let alice = app.register("alice").await;
        let room = app.post("/_matrix/client/v3/createRoom", Some(&alice), json!({ "name": "Den" })).await.1;
        let room = room["room_id"].as_str().unwrap();
        let (status, first) = app.post(SYNC, Some(&alice), all_rooms()).await;
        assert_eq!(status, StatusCode::OK, "{first}");
        assert_eq!((&first["lists"]["all"]["count"], &first["rooms"][room]["name"]), (&json!(1), &json!("Den")));
        assert_eq!(first["rooms"][room]["initial"], true);
        let pos = first["pos"].as_str().unwrap();
        let (_, second) = app.post(&format!("{SYNC}?pos={pos}"), Some(&alice), all_rooms()).await;
        assert_eq!(second["rooms"], json!({}), "{second}");
        let mut in_body = all_rooms();
        in_body["pos"] = json!(pos);
        let (status, second) = app.post(SYNC, Some(&alice), in_body).await;
        assert_eq!((status, &second["rooms"]), (StatusCode::OK, &json!({})));
    }

    #[tokio::test]
    async fn bad_requests_are_refused() {
        let app = TestApp::new();
        let alice = app.register("alice").await;
        for (query, body, expected) in [
            ("?pos=1-s1_0_0_1", json!({}), "M_UNKNOWN_POS"),
            ("?pos=nonsense", json!({}), "M_UNKNOWN_POS"),
            ("?timeout=x", json!({}), "M_INVALID_PARAM"),
            ("", json!({ "lists": { "x": { "ranges": [[5, 1]] } } }), "M_INVALID_PARAM"),
            ("", json!({ "lists": { "x": { "ranges": "all" } } }), "M_BAD_JSON"),
            ("", json!({ "conn_id": "x".repeat(100) }), "M_INVALID_PARAM"),
        ] {
            let (status, answer) = app.post(&format!("{SYNC}{query}"), Some(&alice), body).await;
            assert_eq!((status, answer["errcode"].as_str().unwrap()), (StatusCode::BAD_REQUEST, expected), "{query}");
        }
        let (status, answer) = app.post(SYNC, None, json!({})).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_MISSING_TOKEN")));
    }
}
