//! GET /_matrix/client/v3/devices/{deviceId} (client-server API, "Device Management").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::devices::Devices;
use ruma::api::client::device::get_device::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(devices): State<Arc<Devices>>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let device = devices.get_device(&session.user_id, &request.device_id)?;
    let device = device.ok_or_else(|| ApiError::not_found("There is no such device"))?;
    Ok(RumaResponse(Response::new(super::to_ruma(device))))
}
