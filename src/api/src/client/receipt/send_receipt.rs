//! POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId} (client-server API, "Receipts").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::receipts::{ReceiptKind, Receipts, Thread};
use ruma::{OwnedEventId, OwnedRoomId, api::client::receipt::create_receipt::v3::Response};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    error::ApiError,
    extract::{JsonBody, PathParams, RumaResponse, User},
};

/// Read here and not by ruma's type: a `thread_id` of the wrong kind is M_INVALID_PARAM, not M_BAD_JSON.
#[derive(Deserialize)]
pub struct Body {
    thread_id: Option<Value>,
}

pub async fn handle(
    State(receipts): State<Arc<Receipts>>,
    User(session): User,
    PathParams((room_id, receipt_type, event_id)): PathParams<(OwnedRoomId, String, OwnedEventId)>,
    JsonBody(body): JsonBody<Body>,
) -> Result<RumaResponse<Response>, ApiError> {
    let thread = match body.thread_id {
        None => Thread::Unthreaded,
        Some(thread_id) => thread_id
            .as_str()
            .and_then(Thread::parse)
            .ok_or_else(|| ApiError::invalid_param("thread_id must be \"main\" or the ID of a thread's root event"))?,
    };
    let kind = match receipt_type.as_str() {
        "m.read" => ReceiptKind::Public,
        "m.read.private" => ReceiptKind::Private,
        "m.fully_read" if thread == Thread::Unthreaded => {
            receipts.set_fully_read(&room_id, &session.user_id, &event_id).await?;
            return Ok(RumaResponse(Response::new()));
        }
        "m.fully_read" => return Err(ApiError::invalid_param("thread_id is not for m.fully_read")),
        _ => return Err(ApiError::invalid_param("receiptType must be m.read, m.read.private or m.fully_read")),
    };
    receipts.set(&room_id, &session.user_id, kind, &thread, &event_id).await?;
    Ok(RumaResponse(Response::new()))
}
