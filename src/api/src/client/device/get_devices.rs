//! GET /_matrix/client/v3/devices (client-server API, "Device Management").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::devices::Devices;
use ruma::api::client::device::get_devices::v3::Response;

use crate::{
    error::ApiError,
    extract::{Authenticated, RumaResponse},
};

pub async fn handle(
    State(devices): State<Arc<Devices>>,
    Authenticated(session): Authenticated,
) -> Result<RumaResponse<Response>, ApiError> {
    let devices = devices.scan_devices(&session.user_id)?;
    Ok(RumaResponse(Response::new(devices.into_iter().map(super::to_ruma).collect())))
}
