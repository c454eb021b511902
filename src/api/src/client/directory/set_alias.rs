//! PUT /_matrix/client/v3/directory/room/{roomAlias} (client-server API, "Room aliases").

use axum::{Json, extract::State};
use chappe_rooms::{RoomError, Rooms};
use http::StatusCode;
use ruma::{OwnedRoomAliasId, OwnedRoomId, api::error::ErrorCode};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use crate::{
    client::membership::target::require_known,
    error::ApiError,
    extract::{JsonBody, PathParams, User},
};

#[derive(Deserialize)]
pub struct Body {
    room_id: OwnedRoomId,
}

pub async fn handle(
    State(rooms): State<Rooms>,
    User(session): User,
    PathParams(alias): PathParams<OwnedRoomAliasId>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<JsonValue>, ApiError> {
    if alias.alias().is_empty() || alias.alias().chars().any(|char| char.is_whitespace() || char.is_control()) {
        return Err(ApiError::invalid_param("The alias contains characters that are not allowed"));
    }
    require_known(&rooms, &body.room_id)?;
    match rooms.create_alias(&session.user_id, &alias, &body.room_id).await {
        Ok(()) => Ok(Json(json!({}))),
        Err(RoomError::InUse(message)) => Err(ApiError::new(StatusCode::CONFLICT, ErrorCode::Unknown, message)),
        Err(error) => Err(error.into()),
    }
}
