//! POST /_matrix/federation/v1/user/keys/query
//!
//! Spec: Server-Server API, End-to-End Encryption.

use axum::extract::State;
use chappe_services::keys::Keys;
use ruma::api::federation::keys::get_keys::v1::{Request, Response};

use crate::{
    error::ApiError,
    extract::{RumaResponse, Signed},
};

pub async fn query(
    State(keys): State<Keys>,
    Signed { body, .. }: Signed<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    Ok(RumaResponse(keys.query_local(body.device_keys)?))
}
