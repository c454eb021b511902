//! POST /_matrix/client/v3/rooms/{roomId}/leave (client-server API, "Leaving rooms").

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use ruma::OwnedRoomId;
use serde_json::{Value as JsonValue, json};

use super::target::ReasonBody;
use crate::{
    error::ApiError,
    extract::{Authenticated, JsonBody, PathParams},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    Authenticated(session): Authenticated,
    PathParams(room_id): PathParams<OwnedRoomId>,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Json<JsonValue>, ApiError> {
    rooms.leave(&session.user_id, &room_id, body.reason).await?;
    Ok(Json(json!({})))
}
