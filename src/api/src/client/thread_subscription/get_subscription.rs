//! GET /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription (MSC4306).

use axum::extract::State;
use chappe_services::thread_subscriptions::ThreadSubscriptions;
use ruma::api::client::threads::get_thread_subscription::unstable::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(subscriptions): State<ThreadSubscriptions>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let automatic = subscriptions
        .get_visible(&session.user_id, &request.room_id, &request.thread_root)?
        .ok_or_else(|| ApiError::not_found("You are not subscribed to this thread"))?;
    Ok(RumaResponse(Response::new(automatic)))
}
