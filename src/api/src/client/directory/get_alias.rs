//! GET /_matrix/client/v3/directory/room/{roomAlias} (client-server API, "Room aliases").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::Rooms;
use chappe_services::{app_services::client::AppServices, directory::Directory};
use ruma::{OwnedRoomAliasId, api::client::alias::get_alias::v3::Response};

use crate::{
    error::ApiError,
    extract::{OptionalUser, PathParams, RumaResponse},
};

/// Anyone may ask for this server's aliases; other servers are asked for users only.
pub async fn handle(
    State(directory): State<Arc<Directory>>,
    State(rooms): State<Rooms>,
    State(app_services): State<AppServices>,
    OptionalUser(session): OptionalUser,
    PathParams(alias): PathParams<OwnedRoomAliasId>,
) -> Result<RumaResponse<Response>, ApiError> {
    if session.is_none() && alias.server_name() != rooms.server_name() {
        return Err(ApiError::missing_token());
    }
    app_services.ensure_alias(&alias).await?;
    let resolved = directory.resolve_alias(&alias).await?;
    let resolved = resolved.ok_or_else(|| ApiError::not_found("Room alias not found"))?;
    Ok(RumaResponse(Response::new(resolved.room_id, resolved.servers)))
}
