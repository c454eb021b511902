//! PUT /_matrix/client/unstable/org.matrix.msc4140/rooms/{roomId}/delayed_event/{eventType}/{txnId} (MSC4140, "Scheduling a delayed
//! event").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::{
    EventDraft, Rooms,
    send::{canonical_content, transaction},
};
use chappe_services::{delayed_events::DelayedEvents, directory::Directory};
use ruma::{
    api::client::delayed_events::send_delayed_event::unstable::{Request, Response},
    events::{StateEventType, TimelineEventType},
};

use crate::{
    client::{membership::target::require_known, message::send::name_target, room::state_content::check_content},
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    State(directory): State<Arc<Directory>>,
    State(delayed): State<Arc<DelayedEvents>>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let content = canonical_content(request.content.json().get())?;
    require_known(&rooms, &request.room_id)?;
    let mut draft = match request.state_key {
        Some(state_key) => {
            let event_type = StateEventType::from(request.event_type.to_string());
            check_content(&rooms, &directory, &request.room_id, &event_type, &state_key, &content).await?;
            EventDraft::state(request.event_type, state_key, content)
        }
        None => EventDraft::message(request.event_type, content),
    };
    draft.transaction = Some(transaction(&session.device_id, &request.txn_id));
    if draft.kind == TimelineEventType::RoomRedaction && draft.state_key.is_none() {
        name_target(&rooms, &request.room_id, &mut draft)?;
    }
    Ok(RumaResponse(Response::new(delayed.schedule(&session, &request.room_id, draft, request.delay).await?)))
}
