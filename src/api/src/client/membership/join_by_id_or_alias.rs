//! POST /_matrix/client/v3/join/{roomIdOrAlias} (client-server API, "Joining rooms").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::Rooms;
use chappe_services::{app_services::client::AppServices, directory::Directory, profile::Profiles};
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName,
    api::client::membership::join_room_by_id_or_alias::v3::Response,
};
use serde_json::value::RawValue as RawJsonValue;

use super::{join::join, target::JoinBody, via::Via};
use crate::{
    error::ApiError,
    extract::{Active, Authenticated, JsonBody, PathParams, RumaResponse},
    rate_limit::RateLimits,
};

pub async fn handle(
    State(rooms): State<Rooms>,
    State(directory): State<Arc<Directory>>,
    State(profiles): State<Arc<Profiles>>,
    State(limits): State<Arc<RateLimits>>,
    State(app_services): State<AppServices>,
    Active(Authenticated(session)): Active<Authenticated>,
    PathParams(room): PathParams<OwnedRoomOrAliasId>,
    Via(via): Via,
    JsonBody(body): JsonBody<Box<RawJsonValue>>,
) -> Result<RumaResponse<Response>, ApiError> {
    let (room_id, via) = resolve(&app_services, &directory, room, via).await?;
    join(&rooms, &profiles, &limits, &session, &room_id, &via, JoinBody::read(&body)?).await?;
    Ok(RumaResponse(Response::new(room_id)))
}

/// The room that is meant, and the servers to reach it by.
pub(crate) async fn resolve(
    app_services: &AppServices,
    directory: &Directory,
    room: OwnedRoomOrAliasId,
    mut via: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), ApiError> {
    let alias = match OwnedRoomId::try_from(room.clone()) {
        Ok(room_id) => return Ok((room_id, via)),
        Err(_) => {
            OwnedRoomAliasId::try_from(room).map_err(|_| ApiError::invalid_param("Neither a room id nor an alias"))?
        }
    };
    app_services.ensure_alias(&alias).await?;
    let resolved = directory.resolve_alias(&alias).await?;
    let resolved = resolved.ok_or_else(|| ApiError::not_found("Room alias not found"))?;
    via.extend(resolved.servers);
    Ok((resolved.room_id, via))
}
