//! GET /_matrix/client/v3/joined_rooms (client-server API, "Listing rooms").

use axum::extract::State;
use chappe_rooms::Rooms;
use ruma::api::client::membership::joined_rooms::v3::Response;

use crate::{
    error::ApiError,
    extract::{Authenticated, RumaResponse},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    Authenticated(session): Authenticated,
) -> Result<RumaResponse<Response>, ApiError> {
    let mut joined_rooms = Vec::new();
    for room in rooms.get_joined_rooms(&session.user_id)? {
        joined_rooms.extend(rooms.get_room_id(room)?);
    }
    Ok(RumaResponse(Response::new(joined_rooms)))
}
