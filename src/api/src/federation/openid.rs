//! GET /_matrix/federation/v1/openid/userinfo
//!
//! Spec: Server-Server API, OpenID.

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::accounts::Accounts;
use http::StatusCode;
use ruma::api::{error::ErrorCode, federation::openid::get_openid_userinfo::v1::Request};
use serde_json::{Value, json};

use crate::{error::ApiError, extract::Ruma};

/// Asked by services that a user has given a token to: not signed by any server.
pub async fn userinfo(
    State(accounts): State<Arc<Accounts>>,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Value>, ApiError> {
    let user = accounts.get_openid_user(&request.access_token)?;
    let user = user.ok_or_else(|| {
        ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::UnknownToken, "Access token unknown or expired")
    })?;
    Ok(Json(json!({ "sub": user })))
}
