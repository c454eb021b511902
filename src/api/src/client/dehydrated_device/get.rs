//! GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device (MSC3814, "Rehydrating a device").

use axum::extract::State;
use chappe_services::keys::Keys;
use ruma::{api::client::dehydrated_device::get_dehydrated_device::unstable::Response, serde::Raw};

use super::none;
use crate::{
    error::ApiError,
    extract::{RumaResponse, User},
};

pub async fn handle(State(keys): State<Keys>, User(session): User) -> Result<RumaResponse<Response>, ApiError> {
    let device = keys.get_dehydrated_device(&session.user_id)?.ok_or_else(none)?;
    let data = Raw::from_json_string(device.data).map_err(ApiError::internal)?;
    Ok(RumaResponse(Response::new(device.device_id, data)))
}
