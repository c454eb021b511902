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
    // A service rules the aliases of its namespaces, whichever of its users made them.
    let is_own = session.app_service.as_ref().is_some_and(|service| service.covers_alias(&alias));
    let user = match rooms.get_alias(&alias)? {
        Some(record) if is_own => record.creator,
        _ => session.user_id,
    };
    rooms.delete_alias(&user, &alias).await?;
    Ok(Json(json!({})))
}
