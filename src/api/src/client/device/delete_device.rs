//! DELETE /_matrix/client/v3/devices/{deviceId} (client-server API, "Device Management").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::devices::Devices;
use ruma::api::client::device::delete_device::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, StepUp},
};

pub async fn handle(
    State(devices): State<Arc<Devices>>,
    step_up: StepUp,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let operation = format!("delete device {}", request.device_id);
    let session = step_up.authorize(&operation, request.auth.as_ref()).await?;
    devices.delete(&session.user_id, &[request.device_id]).await?;
    Ok(RumaResponse(Response::new()))
}
