//! POST /_matrix/client/v3/keys/upload (client-server API, "Key management API").

use axum::extract::State;
use chappe_services::keys::{DeviceKeysUpload, Keys};
use ruma::api::client::keys::upload_keys::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(keys): State<Keys>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if session.device().is_none() {
        return Err(ApiError::missing_param("An application service uploads keys as one of its users' devices"));
    }
    let Request { device_keys, one_time_keys, fallback_keys, .. } = request;
    let upload = DeviceKeysUpload { device_keys, one_time_keys, fallback_keys };
    let counts = keys.upload(&session.user_id, &session.device_id, upload).await?;
    Ok(RumaResponse(Response::new(counts)))
}
