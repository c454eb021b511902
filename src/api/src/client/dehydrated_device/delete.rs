//! DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device (MSC3814, "Deleting a dehydrated device").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{devices::Devices, keys::Keys};
use ruma::api::client::dehydrated_device::delete_dehydrated_device::unstable::Response;

use super::none;
use crate::{
    error::ApiError,
    extract::{RumaResponse, User},
};

pub async fn handle(
    State(keys): State<Keys>,
    State(devices): State<Arc<Devices>>,
    User(session): User,
) -> Result<RumaResponse<Response>, ApiError> {
    let device = keys.get_dehydrated_device(&session.user_id)?.ok_or_else(none)?;
    devices.delete(&session.user_id, std::slice::from_ref(&device.device_id)).await?;
    Ok(RumaResponse(Response::new(device.device_id)))
}
