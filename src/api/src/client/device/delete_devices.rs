//! POST /_matrix/client/v3/delete_devices (client-server API, "Device Management").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{devices::Devices, uia::Uia};
use ruma::api::client::device::delete_devices::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{ClientAddress, Ruma, RumaResponse, User},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(devices): State<Arc<Devices>>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if request.auth.is_some() {
        limits.check_session(Limit::Authentication, &session)?;
    }
    let mut named: Vec<_> = request.devices.iter().map(|device_id| device_id.as_str()).collect();
    named.sort_unstable();
    let operation = format!("delete devices {}", named.join("\n"));
    uia.authorize_user(&session, &operation, request.auth.as_ref(), address).await?;
    devices.delete(&session.user_id, &request.devices).await?;
    Ok(RumaResponse(Response::new()))
}
