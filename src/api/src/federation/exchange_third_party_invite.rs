//! PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}
//!
//! Spec: Server-Server API, Third-party invites.

use axum::{Json, extract::State};
use chappe_rooms::{Rooms, send::canonical_content, third_party::ThirdPartySigned};
use ruma::{CanonicalJsonValue, api::federation::thirdparty::exchange_invite::v1::Request, events::StateEventType};
use serde_json::{Value as JsonValue, json};

use crate::{error::ApiError, extract::Signed};

pub async fn exchange_third_party_invite(
    State(rooms): State<Rooms>,
    Signed { origin, body }: Signed<Request>,
) -> Result<Json<JsonValue>, ApiError> {
    let mut content = canonical_content(body.content.json().get())?;
    let is_invite = content.get("membership").and_then(CanonicalJsonValue::as_str) == Some("invite");
    if body.kind != StateEventType::RoomMember || !is_invite {
        return Err(ApiError::invalid_param("The event is not an invite"));
    }
    let signed = match content.remove("third_party_invite") {
        Some(CanonicalJsonValue::Object(mut invite)) => invite.remove("signed"),
        _ => None,
    };
    let Some(CanonicalJsonValue::Object(signed)) = signed else {
        return Err(ApiError::bad_json("The event has no signed third-party invite"));
    };
    let signed = ThirdPartySigned::read(signed, Some(body.sender))?;
    rooms.receive_third_party_exchange(&origin, &body.room_id, &body.state_key, &signed).await?;
    Ok(Json(json!({})))
}
