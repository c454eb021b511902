//! PUT /_matrix/federation/v2/invite/{roomId}/{eventId}, and its version 1, whose body is the event itself and whose answer is
//! wrapped in `[200, ...]`.
//!
//! Spec: Server-Server API, Inviting to a room.

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use chappe_services::accounts::Accounts;
use ruma::{OwnedServerName, RoomVersionId, UserId, api::federation::membership::create_join_event};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue as RawJsonValue};

use crate::{error::ApiError, extract::Signed};

/// The body of version 2, read from the raw body: the event must be kept as it came.
#[derive(Deserialize)]
struct Body {
    room_version: RoomVersionId,
    event: Box<RawJsonValue>,
    #[serde(default)]
    invite_room_state: Vec<Value>,
}

// Path and shape (room id, event id, any JSON body) are those of send_join.
type Request = create_join_event::v2::Request;

pub async fn invite(
    State(rooms): State<Rooms>,
    State(accounts): State<Arc<Accounts>>,
    Signed { origin, body }: Signed<Request>,
) -> Result<Json<Value>, ApiError> {
    let content: Body = serde_json::from_str(body.pdu.get()).map_err(|error| ApiError::bad_json(error.to_string()))?;
    let event =
        receive(&rooms, &accounts, origin, &body, &content.room_version, &content.event, content.invite_room_state)
            .await?;
    Ok(Json(json!({ "event": event })))
}

pub async fn invite_v1(
    State(rooms): State<Rooms>,
    State(accounts): State<Arc<Accounts>>,
    Signed { origin, body }: Signed<Request>,
) -> Result<Json<Value>, ApiError> {
    #[derive(Deserialize, Default)]
    struct Unsigned {
        #[serde(default)]
        invite_room_state: Vec<Value>,
    }
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        unsigned: Unsigned,
    }
    let event: Event = serde_json::from_str(body.pdu.get()).map_err(|error| ApiError::bad_json(error.to_string()))?;
    // Servers use version 1 only for rooms of the first two versions, whose events are alike.
    let event =
        receive(&rooms, &accounts, origin, &body, &RoomVersionId::V2, &body.pdu, event.unsigned.invite_room_state)
            .await?;
    Ok(Json(json!([200, { "event": event }])))
}

async fn receive(
    rooms: &Rooms,
    accounts: &Accounts,
    origin: OwnedServerName,
    path: &Request,
    version: &RoomVersionId,
    event: &RawJsonValue,
    stripped: Vec<Value>,
) -> Result<Box<RawJsonValue>, ApiError> {
    #[derive(Deserialize)]
    struct Target {
        state_key: String,
    }
    let target: Target = serde_json::from_str(event.get()).map_err(|error| ApiError::bad_json(error.to_string()))?;
    let target =
        UserId::parse(&target.state_key).map_err(|_| ApiError::invalid_param("The state key is not a user id"))?;
    if target.server_name() == rooms.server_name()
        && accounts.get_account(&target)?.is_none_or(|account| account.deactivated_at_ms.is_some())
    {
        return Err(ApiError::not_found("The invited user does not exist"));
    }
    Ok(rooms.receive_invite(&origin, &path.room_id, &path.event_id, version, event, stripped).await?)
}
