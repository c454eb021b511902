//! GET /_matrix/client/v3/directory/list/room/{roomId} (client-server API, "Published room directory").

use axum::extract::State;
use chappe_rooms::Rooms;
use ruma::{
    OwnedRoomId,
    api::client::{directory::get_room_visibility::v3::Response, room::Visibility},
};

use crate::{
    error::ApiError,
    extract::{PathParams, RumaResponse},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    PathParams(room_id): PathParams<OwnedRoomId>,
) -> Result<RumaResponse<Response>, ApiError> {
    let room = rooms.require_room(&room_id)?;
    let visibility = if rooms.is_listed(room.nid)? { Visibility::Public } else { Visibility::Private };
    Ok(RumaResponse(Response::new(visibility)))
}
