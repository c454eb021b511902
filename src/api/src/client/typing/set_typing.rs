//! PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId} (client-server API, "Typing Notifications").

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use chappe_services::typing::{SetTypingError, Typing};
use ruma::{OwnedRoomId, OwnedUserId, api::client::typing::create_typing_event::v3::Response};
use serde::Deserialize;

use crate::{
    error::ApiError,
    extract::{JsonBody, PathParams, RumaResponse, User},
};

/// For clients that leave `timeout` off: ruma's type demands it, the specification does not.
const TIMEOUT_DEFAULT_MS: u64 = 30_000;

#[derive(Deserialize)]
pub struct Body {
    typing: bool,
    timeout: Option<u64>,
}

pub async fn handle(
    State(typing): State<Arc<Typing>>,
    User(session): User,
    PathParams((room_id, user_id)): PathParams<(OwnedRoomId, OwnedUserId)>,
    JsonBody(body): JsonBody<Body>,
) -> Result<RumaResponse<Response>, ApiError> {
    if user_id != session.user_id {
        return Err(ApiError::forbidden("You can only say of yourself that you type"));
    }
    if body.typing {
        typing.start(&room_id, &user_id, Duration::from_millis(body.timeout.unwrap_or(TIMEOUT_DEFAULT_MS)))?;
    } else {
        typing.stop(&room_id, &user_id)?;
    }
    Ok(RumaResponse(Response::new()))
}

impl From<SetTypingError> for ApiError {
    fn from(error: SetTypingError) -> Self {
        match error {
            SetTypingError::NotJoined => Self::forbidden("You are not in this room"),
            SetTypingError::Store(error) => error.into(),
        }
    }
}
