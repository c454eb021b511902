//! POST /_matrix/client/v3/rooms/{roomId}/invite (client-server API, "Joining rooms").

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use chappe_services::app_services::client::AppServices;
use ruma::OwnedRoomId;
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::target::{TargetBody, require_known, third_party_denied};
use crate::{
    error::ApiError,
    extract::{Active, JsonBody, PathParams, User},
};

#[derive(Deserialize)]
pub struct Body {
    #[serde(flatten)]
    target: TargetBody,
    /// Third-party invites have a medium instead of a user.
    medium: Option<JsonValue>,
}

pub async fn handle(
    State(rooms): State<Rooms>,
    State(app_services): State<AppServices>,
    Active(User(session)): Active<User>,
    PathParams(room_id): PathParams<OwnedRoomId>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<JsonValue>, ApiError> {
    if body.medium.is_some() {
        return Err(third_party_denied());
    }
    let target = body.target.target()?;
    require_known(&rooms, &room_id)?;
    // A bridge makes up its users when they are first needed.
    app_services.ensure_user(&target).await?;
    rooms.invite(&session.user_id, &room_id, &target, body.target.reason).await?;
    Ok(Json(json!({})))
}
