//! PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}
//!
//! Spec: Server-Server API, Knocking upon a room.

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use ruma::api::federation::membership::create_knock_event::v1::Request;
use serde_json::{Value, json};

use crate::{error::ApiError, extract::Signed};

pub async fn send_knock(
    State(rooms): State<Rooms>,
    Signed { origin, body }: Signed<Request>,
) -> Result<Json<Value>, ApiError> {
    let stripped = rooms.receive_knock(&origin, &body.room_id, &body.event_id, &body.pdu).await?;
    Ok(Json(json!({ "knock_room_state": stripped })))
}
