//! GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event (client-server API, "Getting events for a room").

use axum::extract::State;
use chappe_rooms::Rooms;
use ruma::api::client::room::get_event_by_timestamp::v1::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let (room, _) = rooms.require_state_view(&request.room_id, &session.user_id)?;
    let found = rooms.get_visible_event_by_time(&room, &session.user_id, request.ts, request.dir).await?;
    let found = found.ok_or_else(|| ApiError::not_found("No event found"))?;
    Ok(RumaResponse(Response::new(found.pdu.event_id.clone(), found.pdu.origin_server_ts)))
}
