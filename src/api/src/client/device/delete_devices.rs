//! POST /_matrix/client/v3/delete_devices (client-server API, "Device Management").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::devices::Devices;
use ruma::api::client::device::delete_devices::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, StepUp},
};

pub async fn handle(
    State(devices): State<Arc<Devices>>,
    step_up: StepUp,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let mut named: Vec<_> = request.devices.iter().map(|device_id| device_id.as_str()).collect();
    named.sort_unstable();
    let operation = format!("delete devices {}", named.join("\n"));
    let session = step_up.authorize(&operation, request.auth.as_ref()).await?;
    devices.delete(&session.user_id, &request.devices).await?;
    Ok(RumaResponse(Response::new()))
}
