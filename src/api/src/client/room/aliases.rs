//! GET /_matrix/client/v3/rooms/{roomId}/aliases (client-server API, "Room aliases").

use axum::extract::State;
use chappe_rooms::Rooms;
use ruma::{OwnedRoomId, api::client::room::aliases::v3::Response};

use crate::{
    error::ApiError,
    extract::{PathParams, RumaResponse, User},
};

/// For members, and for everyone where the history is world readable.
pub async fn handle(
    State(rooms): State<Rooms>,
    User(session): User,
    PathParams(room_id): PathParams<OwnedRoomId>,
) -> Result<RumaResponse<Response>, ApiError> {
    let (room, view) = rooms.require_state_view(&room_id, &session.user_id)?;
    if view.left_at.is_some() {
        return Err(ApiError::forbidden("You are not in this room"));
    }
    Ok(RumaResponse(Response::new(rooms.get_aliases_of_room(room.nid)?)))
}
