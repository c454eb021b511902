//! PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId} (client-server API, "Redactions").

use axum::extract::State;
use chappe_rooms::{Rooms, send::transaction};
use ruma::{OwnedEventId, OwnedRoomId, OwnedTransactionId, api::client::redact::redact_event::v3::Response};
use serde::Deserialize;

use crate::{
    client::membership::target::require_known,
    error::ApiError,
    extract::{Authenticated, JsonBody, PathParams, RumaResponse},
};

#[derive(Deserialize)]
pub struct Body {
    #[serde(default)]
    reason: Option<String>,
}

pub async fn handle(
    State(rooms): State<Rooms>,
    Authenticated(session): Authenticated,
    PathParams((room_id, event_id, txn_id)): PathParams<(OwnedRoomId, OwnedEventId, OwnedTransactionId)>,
    JsonBody(body): JsonBody<Body>,
) -> Result<RumaResponse<Response>, ApiError> {
    require_known(&rooms, &room_id)?;
    let transaction = transaction(&session.device_id, &txn_id);
    let sent = rooms.redact(&session.user_id, &room_id, &event_id, body.reason, Some(transaction)).await?;
    Ok(RumaResponse(Response::new(sent.event_id)))
}
