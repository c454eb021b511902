//! PUT /_matrix/client/v3/devices/{deviceId} (client-server API, "Device Management").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{
    accounts::NewDevice,
    devices::{ChangeDeviceError, Devices},
};
use ruma::api::client::device::update_device::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(devices): State<Arc<Devices>>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if session.app_service.is_some() && devices.get_device(&session.user_id, &request.device_id)?.is_none() {
        // Application services make devices this way, and without a token.
        let device =
            NewDevice { device_id: Some(request.device_id), display_name: request.display_name, refresh: false };
        devices.create(&session.user_id, &device).await?;
        return Ok(RumaResponse(Response::new()));
    }
    match &request.display_name {
        Some(name) => devices.set_display_name(&session.user_id, &request.device_id, Some(name)).await?,
        // A name left off stays as it is; an unknown device is still an error.
        None if devices.get_device(&session.user_id, &request.device_id)?.is_none() => {
            return Err(ChangeDeviceError::NotFound.into());
        }
        None => {}
    }
    Ok(RumaResponse(Response::new()))
}
