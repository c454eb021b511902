//! GET /_matrix/client/unstable/org.matrix.msc4140/delayed_events (MSC4140, "Getting delayed events").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::delayed_events::DelayedEvents;
use ruma::api::client::delayed_events::get_all_delayed_events::unstable::Response;

use super::get_one::show;
use crate::{
    error::ApiError,
    extract::{Authenticated, RumaResponse},
};

pub async fn handle(
    State(delayed): State<Arc<DelayedEvents>>,
    Authenticated(session): Authenticated,
) -> Result<RumaResponse<Response>, ApiError> {
    let scheduled = delayed.scan_scheduled(&session.user_id)?;
    let shown = scheduled.into_iter().map(|(delay_id, record)| show(delay_id, record)).collect::<Result<_, _>>()?;
    Ok(RumaResponse(Response::new(shown)))
}
