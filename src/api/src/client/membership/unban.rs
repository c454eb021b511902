//! POST /_matrix/client/v3/rooms/{roomId}/unban (client-server API, "Banning users in a room").

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use ruma::OwnedRoomId;
use serde_json::{Value as JsonValue, json};

use super::target::{TargetBody, require_known};
use crate::{
    error::ApiError,
    extract::{Active, JsonBody, PathParams, User},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    Active(User(session)): Active<User>,
    PathParams(room_id): PathParams<OwnedRoomId>,
    JsonBody(body): JsonBody<TargetBody>,
) -> Result<Json<JsonValue>, ApiError> {
    let target = body.target()?;
    require_known(&rooms, &room_id)?;
    rooms.unban(&session.user_id, &room_id, &target, body.reason).await?;
    Ok(Json(json!({})))
}
