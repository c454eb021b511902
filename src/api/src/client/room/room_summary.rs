//! GET /_matrix/client/v1/room_summary/{roomIdOrAlias} (client-server API, "Room summaries").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use chappe_services::{
    app_services::client::AppServices, directory::Directory, room_summary::RoomSummary, spaces::Spaces,
};
use ruma::{OwnedRoomAliasId, OwnedRoomOrAliasId};
use serde::Serialize;

use crate::{
    client::membership::{join_by_id_or_alias::resolve, via::Via},
    error::ApiError,
    extract::{OptionalUser, PathParams},
};

#[derive(Serialize)]
pub struct Answer {
    #[serde(flatten)]
    summary: RoomSummary,
    /// The membership of the user who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<String>,
}

/// Anyone may ask for the open rooms that this server is in; other servers are asked for users only.
pub async fn handle(
    State(spaces): State<Arc<Spaces>>,
    State(directory): State<Arc<Directory>>,
    State(rooms): State<Rooms>,
    State(app_services): State<AppServices>,
    OptionalUser(session): OptionalUser,
    PathParams(room): PathParams<OwnedRoomOrAliasId>,
    Via(via): Via,
) -> Result<Json<Answer>, ApiError> {
    let of_elsewhere = |alias: OwnedRoomAliasId| alias.server_name() != rooms.server_name();
    if session.is_none() && OwnedRoomAliasId::try_from(room.clone()).is_ok_and(of_elsewhere) {
        return Err(ApiError::missing_token());
    }
    let (room_id, via) = resolve(&app_services, &directory, room, via).await?;
    if session.is_none() && !spaces.is_resident(&room_id)? {
        return Err(ApiError::missing_token());
    }
    let user = session.map(|session| session.user_id);
    let summary = spaces.get_summary(user.as_deref(), &room_id, &via).await?;
    let summary = summary.ok_or_else(|| ApiError::not_found("Room not found"))?;
    let membership = match (&user, rooms.get_room_nid(&room_id)?) {
        (Some(user), Some(room)) => rooms.get_user_room(user, room)?.map(|member| member.value.membership),
        _ => None,
    };
    let membership = user.map(|_| membership.unwrap_or_else(|| "leave".to_owned()));
    Ok(Json(Answer { summary, membership }))
}
