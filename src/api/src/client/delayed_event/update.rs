//! POST /_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/{action}, and the older form with the action in the body
//! (MSC4140, "Managing delayed events").
//!
//! Whoever knows a delay id may do this: it is handed on to other services, and is as good as a token. So requests are counted by address.

use std::sync::Arc;

use axum::extract::State;
use chappe_services::delayed_events::{Action, DelayedEvents};
use ruma::api::client::delayed_events::update_delayed_event::{UpdateAction, unstable_v1, unstable_v2};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse},
};

pub async fn handle(
    State(delayed): State<Arc<DelayedEvents>>,
    Ruma(request): Ruma<unstable_v2::Request>,
) -> Result<RumaResponse<unstable_v2::Response>, ApiError> {
    let action = action(&request.action).ok_or_else(ApiError::unrecognized_path)?;
    delayed.update(&request.delay_id, action).await?;
    Ok(RumaResponse(unstable_v2::Response::new()))
}

pub async fn handle_in_body(
    State(delayed): State<Arc<DelayedEvents>>,
    Ruma(request): Ruma<unstable_v1::Request>,
) -> Result<RumaResponse<unstable_v1::Response>, ApiError> {
    let action = action(&request.action)
        .ok_or_else(|| ApiError::invalid_param("The action is one of \"cancel\", \"restart\" and \"send\""))?;
    delayed.update(&request.delay_id, action).await?;
    Ok(RumaResponse(unstable_v1::Response::new()))
}

fn action(action: &UpdateAction) -> Option<Action> {
    match action {
        UpdateAction::Cancel => Some(Action::Cancel),
        UpdateAction::Restart => Some(Action::Restart),
        UpdateAction::Send => Some(Action::Send),
        _ => None,
    }
}
