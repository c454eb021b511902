//! PUT /_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription (MSC4306).

use axum::extract::State;
use chappe_services::thread_subscriptions::ThreadSubscriptions;
use ruma::api::client::threads::subscribe_thread::unstable::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(subscriptions): State<ThreadSubscriptions>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let Request { room_id, thread_root, automatic, .. } = request;
    subscriptions.subscribe(&session.user_id, &room_id, &thread_root, automatic.as_deref()).await?;
    Ok(RumaResponse(Response::new()))
}
