//! PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId} (client-server API, "Send-to-Device messaging").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::to_device::ToDevice;
use ruma::api::client::to_device::send_event_to_device::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(to_device): State<Arc<ToDevice>>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let event_type = request.event_type.to_string();
    to_device.send(&session.user_id, &session.device_id, &event_type, &request.txn_id, &request.messages).await?;
    Ok(RumaResponse(Response::new()))
}
