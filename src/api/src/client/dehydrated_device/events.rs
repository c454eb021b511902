//! POST /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{deviceId}/events (MSC3814, "Rehydrating a device").
//!
//! Messages are not deleted by being read: they go with the device, once its client has them all.

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{
    keys::{Keys, messages_token, parse_messages_token},
    to_device::{MESSAGES_PER_SYNC_MAX, ToDevice},
};
use ruma::{
    api::client::dehydrated_device::get_events::unstable::{Request, Response},
    serde::Raw,
};

use super::none;
use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(keys): State<Keys>,
    State(to_device): State<Arc<ToDevice>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if !keys.is_dehydrated_device(&session.user_id, &request.device_id)? {
        return Err(none());
    }
    let from = match &request.next_batch {
        Some(token) => parse_messages_token(token).ok_or_else(|| ApiError::invalid_param("Unknown next_batch"))?,
        None => Default::default(),
    };
    let inbox = to_device.scan_durable(&session.user_id, &request.device_id, from, MESSAGES_PER_SYNC_MAX)?;
    let events: Result<Vec<_>, _> = inbox.events.into_iter().map(Raw::from_json_string).collect();
    let mut response = Response::new(events.map_err(ApiError::internal)?);
    response.next_batch = Some(messages_token(inbox.up_to));
    Ok(RumaResponse(response))
}
