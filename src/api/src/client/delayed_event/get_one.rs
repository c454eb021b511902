//! GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId} (MSC4140, "Getting delayed events").

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use chappe_services::delayed_events::{DelayedEventRecord, DelayedEvents, DelayedOutcome};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::{
        client::delayed_events::{
            DelayedEventData,
            get_delayed_event::unstable::{Request, Response},
        },
        error::StandardErrorBody,
    },
    serde::Raw,
};

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(delayed): State<Arc<DelayedEvents>>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let record = delayed.get_delayed_event(&session.user_id, &request.delay_id)?;
    let record = record.ok_or_else(|| ApiError::not_found("There is no such delayed event"))?;
    Ok(RumaResponse(Response::new(show(request.delay_id, record)?)))
}

pub(super) fn show(delay_id: String, record: DelayedEventRecord) -> Result<DelayedEventData, ApiError> {
    let mut shown = DelayedEventData::new(
        delay_id,
        record.room_id,
        record.event_type.into(),
        record.state_key,
        Raw::from_json_string(record.content).map_err(ApiError::internal)?,
        Duration::from_millis(record.delay_ms),
        timestamp(record.running_since_ms),
    );
    if let Some((outcome, ended_at_ms)) = record.outcome {
        shown.finalized_ts = Some(timestamp(ended_at_ms));
        match outcome {
            DelayedOutcome::Sent { event_id } => shown.event_id = Some(event_id),
            DelayedOutcome::Cancelled => {}
            DelayedOutcome::Refused { errcode, message } => {
                let error = serde_json::json!({ "errcode": errcode, "error": message });
                let error: StandardErrorBody = serde_json::from_value(error).map_err(ApiError::internal)?;
                shown.error = Some(error);
            }
        }
    }
    Ok(shown)
}

fn timestamp(ms: u64) -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms))
}
