//! POST /_matrix/federation/v1/user/keys/claim
//!
//! Spec: Server-Server API, End-to-End Encryption.

use axum::extract::State;
use chappe_services::keys::Keys;
use ruma::api::federation::keys::claim_keys::v1::{Request, Response};

use crate::{
    error::ApiError,
    extract::{RumaResponse, Signed},
};

pub async fn claim(
    State(keys): State<Keys>,
    Signed { body, origin, .. }: Signed<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    Ok(RumaResponse(Response::new(keys.claim_local(origin.as_str(), body.one_time_keys).await?)))
}
