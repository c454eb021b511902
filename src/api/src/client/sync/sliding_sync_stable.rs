//! POST /_matrix/client/v4/sync (MSC4186).

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use chappe_services::sliding_sync::{
    SlidingSync,
    request::SlidingSyncRequest,
    stable::{StableRequest, StableResponse},
};

use crate::{
    error::ApiError,
    extract::{Authenticated, JsonBody},
};

pub async fn handle(
    State(sliding_sync): State<Arc<SlidingSync>>,
    Authenticated(session): Authenticated,
    JsonBody(request): JsonBody<StableRequest>,
) -> Result<Response, ApiError> {
    let mut request = SlidingSyncRequest::from(request);
    request.pos = request.pos.filter(|pos| !pos.is_empty());
    let answer = sliding_sync.sync(&session.user_id, &session.device_id, request).await?;
    Ok(Json(StableResponse::from(&answer)).into_response())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::{Value as JsonValue, json};

    use crate::test_app::TestApp;

    const SYNC: &str = "/_matrix/client/v4/sync";

    fn all_rooms(pos: Option<&JsonValue>) -> JsonValue {
        let state = json!({ "include": [{}], "exclude": [{ "type": "m.room.create" }], "lazy_members": true });
        let list = json!({ "range": [0, 9], "timeline_limit": 3, "required_state": state });
        json!({ "pos": pos, "lists": { "all": list } })
    }

    #[tokio::test]
    async fn rooms_are_told_under_the_names_of_the_accepted_proposal() {
        let app = TestApp::new();
        let alice = app.register("alice").await;
        let room = app.post("/_matrix/client/v3/createRoom", Some(&alice), json!({ "name": "Den" })).await.1;
        let room = room["room_id"].as_str().unwrap();
        let (status, first) = app.post(SYNC, Some(&alice), all_rooms(None)).await;
        assert_eq!(status, StatusCode::OK, "{first}");
        let told = &first["rooms"][room];
        assert_eq!((&told["membership"], &told["lists"]), (&json!("join"), &json!(["all"])));
        assert_eq!(told["timeline_events"].as_array().unwrap().len(), 3);
        let types: Vec<_> = told["required_state"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
        assert!(types.contains(&&json!("m.room.name")) && !types.contains(&&json!("m.room.create")), "{types:?}");
        let (status, second) = app.post(SYNC, Some(&alice), all_rooms(Some(&first["pos"]))).await;
        assert_eq!((status, &second["rooms"]), (StatusCode::OK, &json!({})));
    }

    #[tokio::test]
    async fn bad_requests_are_refused() {
        let app = TestApp::new();
        let alice = app.register("alice").await;
        for (body, expected) in [
            (json!({ "pos": "nonsense" }), "M_UNKNOWN_POS"),
            (json!({ "lists": { "x": { "range": [5, 1] } } }), "M_INVALID_PARAM"),
            (json!({ "lists": { "x": { "required_state": [["*", "*"]] } } }), "M_BAD_JSON"),
        ] {
            let (status, answer) = app.post(SYNC, Some(&alice), body).await;
            assert_eq!((status, answer["errcode"].as_str().unwrap()), (StatusCode::BAD_REQUEST, expected), "{answer}");
        }
        let (status, answer) = app.post(SYNC, None, json!({})).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_MISSING_TOKEN")));
    }
}
