//! PUT /_matrix/client/v3/directory/room/{roomAlias} (client-server API, "Room aliases").

use axum::{Json, extract::State};
use chappe_rooms::{RoomError, Rooms};
use chappe_services::{accounts::Session, app_services::client::AppServices};
use http::StatusCode;
use ruma::{OwnedRoomAliasId, OwnedRoomId, RoomAliasId, api::error::ErrorCode};
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
    State(app_services): State<AppServices>,
    User(session): User,
    PathParams(alias): PathParams<OwnedRoomAliasId>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<JsonValue>, ApiError> {
    if alias.alias().is_empty() || alias.alias().chars().any(|char| char.is_whitespace() || char.is_control()) {
        return Err(ApiError::invalid_param("The alias contains characters that are not allowed"));
    }
    check_alias_owner(&app_services, &session, &alias)?;
    require_known(&rooms, &body.room_id)?;
    match rooms.create_alias(&session.user_id, &alias, &body.room_id).await {
        Ok(()) => Ok(Json(json!({}))),
        Err(RoomError::InUse(message)) => Err(ApiError::new(StatusCode::CONFLICT, ErrorCode::Unknown, message)),
        Err(error) => Err(error.into()),
    }
}

/// Refuses users an alias that a service has for itself, and services one that is none of theirs.
pub(crate) fn check_alias_owner(
    app_services: &AppServices,
    session: &Session,
    alias: &RoomAliasId,
) -> Result<(), ApiError> {
    if app_services.registrations().may_create_alias(session.app_service.as_deref(), alias) {
        return Ok(());
    }
    Err(ApiError::exclusive("The alias belongs to an application service, or is not the service's own"))
}
