//! GET /_matrix/client/v3/rooms/{roomId}/event/{eventId} (client-server API, "Getting events for a room").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::{Rooms, client_event::Viewer, relations::Audience};
use chappe_services::account_data::AccountData;
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    error::ApiError,
    extract::{Authenticated, PathParams},
};

/// What the user may not see is not there.
pub async fn handle(
    State(rooms): State<Rooms>,
    State(account_data): State<Arc<AccountData>>,
    Authenticated(session): Authenticated,
    PathParams((room_id, event_id)): PathParams<(OwnedRoomId, OwnedEventId)>,
) -> Result<Json<Box<RawJsonValue>>, ApiError> {
    let not_found = || ApiError::not_found("Event not found");
    let room = rooms.get_room(&room_id)?.ok_or_else(not_found)?;
    let event = rooms.get_visible_event(&room, &session.user_id, &event_id)?.ok_or_else(not_found)?;
    let viewer = Viewer::new(&session.user_id, Some(&session.device_id));
    let ignored = account_data.get_ignored_users(&session.user_id)?;
    Ok(Json(rooms.to_client_bundled(&event, Audience { viewer, ignored: &ignored }, true)?))
}
