//! GET /_matrix/federation/v1/make_join/{roomId}/{userId}, .../make_leave/..., .../make_knock/...
//!
//! Spec: Server-Server API, Joining rooms, Leaving rooms, Knocking upon a room.

use axum::{Json, extract::State};
use chappe_rooms::{Rooms, handshake::Wanted};
use ruma::api::federation::membership::{prepare_join_event, prepare_knock_event, prepare_leave_event};
use serde_json::{Value, json};

use crate::{error::ApiError, extract::Signed};

pub async fn make_join(
    State(rooms): State<Rooms>,
    request: Signed<prepare_join_event::v1::Request>,
) -> Result<Json<Value>, ApiError> {
    let Signed { origin, body } = request;
    let (version, event) =
        rooms.make_membership(&origin, &body.room_id, &body.user_id, Wanted::Join, Some(&body.ver)).await?;
    Ok(Json(json!({ "room_version": version, "event": event })))
}

pub async fn make_leave(
    State(rooms): State<Rooms>,
    request: Signed<prepare_leave_event::v1::Request>,
) -> Result<Json<Value>, ApiError> {
    let Signed { origin, body } = request;
    let (version, event) = rooms.make_membership(&origin, &body.room_id, &body.user_id, Wanted::Leave, None).await?;
    Ok(Json(json!({ "room_version": version, "event": event })))
}

pub async fn make_knock(
    State(rooms): State<Rooms>,
    request: Signed<prepare_knock_event::v1::Request>,
) -> Result<Json<Value>, ApiError> {
    let Signed { origin, body } = request;
    let (version, event) =
        rooms.make_membership(&origin, &body.room_id, &body.user_id, Wanted::Knock, Some(&body.ver)).await?;
    Ok(Json(json!({ "room_version": version, "event": event })))
}
