//! GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey} (client-server API, "Getting events for a room").

use axum::{Json, extract::State};
use chappe_rooms::{Rooms, client_event::Viewer};
use ruma::{
    UserId,
    api::client::state::get_state_event_for_key::v3::{Request, StateEventFormat},
    events::StateEventType,
};
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Box<RawJsonValue>>, ApiError> {
    if request.event_type == StateEventType::RoomMember
        && let Ok(user) = UserId::parse(&request.state_key)
    {
        rooms.await_member(&request.room_id, &user).await?;
    }
    let (room, view) = rooms.require_state_view(&request.room_id, &session.user_id)?;
    let event = rooms.get_from_root(room.nid, view.root, &request.event_type, &request.state_key)?;
    let event = event.ok_or_else(|| ApiError::not_found("Event not found"))?;
    match request.format {
        StateEventFormat::Content => Ok(Json(event.pdu.content().to_owned())),
        StateEventFormat::Event => {
            let viewer = Viewer::new(&session.user_id, Some(&session.device_id));
            Ok(Json(rooms.to_client(&event, Some(viewer), true)?))
        }
        _ => Err(ApiError::invalid_param("The format is neither content nor event")),
    }
}
