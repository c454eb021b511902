//! POST /_matrix/client/v3/rooms/{roomId}/read_markers (client-server API, "Read and unread markers").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::receipts::{ReceiptKind, Receipts, Thread};
use ruma::api::client::read_marker::set_read_marker::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(receipts): State<Arc<Receipts>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let room_id = &request.room_id;
    let user_id = &session.user_id;
    // The marker first: it is refused for an event of another room, and then nothing is written.
    if let Some(event_id) = &request.fully_read {
        receipts.set_fully_read(room_id, user_id, event_id).await?;
    }
    if let Some(event_id) = &request.read_receipt {
        receipts.set(room_id, user_id, ReceiptKind::Public, &Thread::Unthreaded, event_id).await?;
    }
    if let Some(event_id) = &request.private_read_receipt {
        receipts.set(room_id, user_id, ReceiptKind::Private, &Thread::Unthreaded, event_id).await?;
    }
    Ok(RumaResponse(Response::new()))
}
