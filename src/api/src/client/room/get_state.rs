//! GET /_matrix/client/v3/rooms/{roomId}/state (client-server API, "Getting events for a room").

use axum::{Json, extract::State};
use chappe_rooms::{
    RoomError, Rooms,
    client_event::{Memberships, Viewer},
};
use ruma::OwnedRoomId;
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    error::ApiError,
    extract::{Authenticated, PathParams},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    Authenticated(session): Authenticated,
    PathParams(room_id): PathParams<OwnedRoomId>,
) -> Result<Json<Vec<Box<RawJsonValue>>>, ApiError> {
    rooms.await_members(&room_id).await?;
    // Whole states are work for a blocking thread.
    let read = tokio::task::spawn_blocking(move || -> Result<_, RoomError> {
        let (room, view) = rooms.require_state_view(&room_id, &session.user_id)?;
        let memberships = Memberships::default();
        let viewer = Viewer::new(&session.user_id, Some(&session.device_id)).remembering(&memberships);
        let state = rooms.get_root_events(room.nid, view.root)?;
        state.iter().map(|event| rooms.to_client(event, Some(viewer), true)).collect::<Result<Vec<_>, _>>()
    });
    Ok(Json(read.await.map_err(ApiError::internal)??))
}
