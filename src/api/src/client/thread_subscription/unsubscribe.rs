//! DELETE /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription (MSC4306).

use axum::extract::State;
use chappe_services::thread_subscriptions::ThreadSubscriptions;
use ruma::api::client::threads::unsubscribe_thread::unstable::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(subscriptions): State<ThreadSubscriptions>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    subscriptions.unsubscribe(&session.user_id, &request.room_id, &request.thread_root).await?;
    Ok(RumaResponse(Response::new()))
}
