//! POST /_matrix/client/v3/rooms/{roomId}/forget (client-server API, "Leaving rooms").

use axum::{Json, extract::State};
use chappe_rooms::{RoomError, Rooms};
use http::StatusCode;
use ruma::{OwnedRoomId, api::error::ErrorCode};
use serde_json::{Value as JsonValue, json};

use crate::{
    error::ApiError,
    extract::{Authenticated, PathParams},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    Authenticated(session): Authenticated,
    PathParams(room_id): PathParams<OwnedRoomId>,
) -> Result<Json<JsonValue>, ApiError> {
    match rooms.forget(&session.user_id, &room_id).await {
        Ok(()) => Ok(Json(json!({}))),
        // The specification answers a user who is still in the room with M_UNKNOWN.
        Err(RoomError::Invalid(message)) => Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, message)),
        Err(error) => Err(error.into()),
    }
}
