//! PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId} (client-server API, "Redactions").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::{Rooms, send::transaction};
use chappe_services::accounts::{Accounts, Session};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedTransactionId, api::client::redact::redact_event::v3::Response};
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
    State(accounts): State<Arc<Accounts>>,
    Authenticated(session): Authenticated,
    PathParams((room_id, event_id, txn_id)): PathParams<(OwnedRoomId, OwnedEventId, OwnedTransactionId)>,
    JsonBody(body): JsonBody<Body>,
) -> Result<RumaResponse<Response>, ApiError> {
    require_known(&rooms, &room_id)?;
    check_suspended_redacts_own(&accounts, &rooms, &session, &event_id)?;
    let transaction = transaction(&session.device_id, &txn_id);
    let sent = rooms.redact(&session.user_id, &room_id, &event_id, body.reason, Some(transaction)).await?;
    Ok(RumaResponse(Response::new(sent.event_id)))
}

/// Who is suspended may still take back what they said themselves.
pub(super) fn check_suspended_redacts_own(
    accounts: &Accounts,
    rooms: &Rooms,
    session: &Session,
    target: &EventId,
) -> Result<(), ApiError> {
    if !accounts.is_suspended(&session.user_id)? {
        return Ok(());
    }
    let is_own = rooms.get_event(target)?.is_some_and(|event| event.pdu.sender == session.user_id);
    if is_own { Ok(()) } else { Err(ApiError::user_suspended()) }
}
