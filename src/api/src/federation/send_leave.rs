//! PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}, and its version 1, which wraps the answer in `[200, ...]`.
//!
//! Spec: Server-Server API, Leaving rooms.

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use ruma::api::federation::membership::create_leave_event::v2::Request;
use serde_json::{Value, json};

use crate::{error::ApiError, extract::Signed};

pub async fn send_leave(
    State(rooms): State<Rooms>,
    Signed { origin, body }: Signed<Request>,
) -> Result<Json<Value>, ApiError> {
    rooms.receive_leave(&origin, &body.room_id, &body.event_id, &body.pdu).await?;
    Ok(Json(json!({})))
}

pub async fn send_leave_v1(state: State<Rooms>, request: Signed<Request>) -> Result<Json<Value>, ApiError> {
    send_leave(state, request).await.map(|Json(answer)| Json(json!([200, answer])))
}
