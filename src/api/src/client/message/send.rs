//! PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId} (client-server API, "Sending events to a room").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::{
    EventDraft, Rooms,
    send::{canonical_content, transaction},
};
use ruma::{
    CanonicalJsonValue, EventId,
    api::client::message::send_message_event::v3::{Request, Response},
    events::TimelineEventType,
};

use crate::{
    client::membership::target::require_known,
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    State(limits): State<Arc<RateLimits>>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let content = canonical_content(request.body.json().get())?;
    limits.check_user(Limit::Message, &session.user_id)?;
    require_known(&rooms, &request.room_id)?;
    let mut draft = EventDraft::message(TimelineEventType::from(request.event_type.to_string()), content);
    draft.transaction = Some(transaction(&session.device_id, &request.txn_id));
    if draft.kind == TimelineEventType::RoomRedaction {
        name_target(&rooms, &request, &mut draft)?;
    }
    let sent = rooms.send(&session.user_id, &request.room_id, draft).await?;
    Ok(RumaResponse(Response::new(sent.event_id)))
}

/// Clients name a redaction's target in the content, whatever the room's version; before version 11 it stands beside the content.
fn name_target(rooms: &Rooms, request: &Request, draft: &mut EventDraft) -> Result<(), ApiError> {
    let target = draft.content.get("redacts").and_then(CanonicalJsonValue::as_str);
    let target = target.ok_or_else(|| ApiError::missing_param("A redaction must name the event it redacts"))?;
    let target =
        EventId::parse(target).map_err(|_| ApiError::invalid_param("A redaction must name the event it redacts"))?;
    let room = rooms.require_room(&request.room_id)?;
    if !room.rules.redaction.content_field_redacts {
        draft.content.remove("redacts");
    }
    draft.redacts = Some(target);
    Ok(())
}
