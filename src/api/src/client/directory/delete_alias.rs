//! DELETE /_matrix/client/v3/directory/room/{roomAlias} (client-server API, "Room aliases").

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use ruma::OwnedRoomAliasId;
use serde_json::{Value as JsonValue, json};

use crate::{
    error::ApiError,
    extract::{PathParams, User},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    User(session): User,
    PathParams(alias): PathParams<OwnedRoomAliasId>,
) -> Result<Json<JsonValue>, ApiError> {
    rooms.delete_alias(&session.user_id, &alias).await?;
    Ok(Json(json!({})))
}
