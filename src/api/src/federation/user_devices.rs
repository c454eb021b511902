//! GET /_matrix/federation/v1/user/devices/{userId}
//!
//! Spec: Server-Server API, Device Management.

use axum::extract::State;
use chappe_services::keys::Keys;
use ruma::api::federation::device::get_devices::v1::{Request, Response};

use crate::{
    error::ApiError,
    extract::{RumaResponse, Signed},
};

pub async fn user_devices(
    State(keys): State<Keys>,
    Signed { body, .. }: Signed<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let devices = keys.get_user_devices(&body.user_id)?;
    devices.map(RumaResponse).ok_or_else(|| ApiError::invalid_param("The user is not of this server"))
}
