//! PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId} (client-server API, "Sending events to a room").

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use chappe_rooms::{
    EventDraft, Rooms,
    send::{canonical_content, transaction},
};
use chappe_services::{
    accounts::{Accounts, Session},
    delayed_events::DelayedEvents,
};
use ruma::{
    CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, RoomId,
    api::client::{
        delayed_events::send_delayed_event,
        message::send_message_event::{self, v3::Request},
    },
    events::TimelineEventType,
};

use super::redact::check_suspended_redacts_own;
use crate::{
    client::{delayed_event::Delay, membership::target::require_known},
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    State(delayed): State<Arc<DelayedEvents>>,
    State(accounts): State<Arc<Accounts>>,
    Authenticated(session): Authenticated,
    Delay(delay): Delay,
    Ruma(request): Ruma<Request>,
) -> Result<Response, ApiError> {
    let content = canonical_content(request.body.json().get())?;
    require_known(&rooms, &request.room_id)?;
    let mut draft = EventDraft::message(TimelineEventType::from(request.event_type.to_string()), content);
    draft.sent_at_ms = sent_at_ms(&session, request.timestamp);
    draft.transaction = Some(transaction(&session.device_id, &request.txn_id));
    if draft.kind == TimelineEventType::RoomRedaction {
        name_target(&rooms, &request.room_id, &mut draft)?;
    }
    match &draft.redacts {
        Some(target) => check_suspended_redacts_own(&accounts, &rooms, &session, target)?,
        None if accounts.is_suspended(&session.user_id)? => return Err(ApiError::user_suspended()),
        None => {}
    }
    if let Some(delay) = delay {
        let delay_id = delayed.schedule(&session, &request.room_id, draft, delay).await?;
        return Ok(RumaResponse(send_delayed_event::unstable::Response::new(delay_id)).into_response());
    }
    let sent = rooms.send(&session.user_id, &request.room_id, draft).await?;
    Ok(RumaResponse(send_message_event::v3::Response::new(sent.event_id)).into_response())
}

/// When an application service says that an event was sent; other clients are not believed (application service API, "Timestamp
/// massaging").
pub(crate) fn sent_at_ms(session: &Session, timestamp: Option<MilliSecondsSinceUnixEpoch>) -> Option<u64> {
    timestamp.filter(|_| session.app_service.is_some()).map(|timestamp| timestamp.0.into())
}

/// Clients name a redaction's target in the content, whatever the room's version; before version 11 it stands beside the content.
pub(in crate::client) fn name_target(rooms: &Rooms, room_id: &RoomId, draft: &mut EventDraft) -> Result<(), ApiError> {
    let target = draft.content.get("redacts").and_then(CanonicalJsonValue::as_str);
    let target = target.ok_or_else(|| ApiError::missing_param("A redaction must name the event it redacts"))?;
    let target =
        EventId::parse(target).map_err(|_| ApiError::invalid_param("A redaction must name the event it redacts"))?;
    let room = rooms.require_room(room_id)?;
    if !room.rules.redaction.content_field_redacts {
        draft.content.remove("redacts");
    }
    draft.redacts = Some(target);
    Ok(())
}
