//! GET /_matrix/federation/v1/timestamp_to_event/{roomId}
//!
//! Spec: Server-Server API, Retrieving events.

use axum::extract::State;
use chappe_rooms::Rooms;
use ruma::api::federation::event::get_event_by_timestamp::v1::{Request, Response};

use crate::{
    error::ApiError,
    extract::{RumaResponse, Signed},
};

pub async fn timestamp_to_event(
    State(rooms): State<Rooms>,
    Signed { origin, body }: Signed<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let found = rooms.get_event_by_time_for_server(&origin, &body.room_id, body.ts, body.dir)?;
    let found = found.ok_or_else(|| ApiError::not_found("No event found"))?;
    Ok(RumaResponse(Response::new(found.pdu.event_id.clone(), found.pdu.origin_server_ts)))
}
