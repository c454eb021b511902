//! POST /_matrix/client/v3/rooms/{roomId}/leave (client-server API, "Leaving rooms").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use chappe_services::server_notices::ServerNotices;
use ruma::OwnedRoomId;
use serde_json::{Value as JsonValue, json};

use super::target::ReasonBody;
use crate::{
    error::ApiError,
    extract::{Authenticated, JsonBody, PathParams},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    State(notices): State<Arc<ServerNotices>>,
    Authenticated(session): Authenticated,
    PathParams(room_id): PathParams<OwnedRoomId>,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<Json<JsonValue>, ApiError> {
    notices.check_may_leave(&session.user_id, &room_id)?;
    rooms.leave(&session.user_id, &room_id, body.reason).await?;
    Ok(Json(json!({})))
}
