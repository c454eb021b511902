//! GET and POST /_synapse/admin/v1/register: tools that know the shared secret make accounts, whatever the registration mode
//! (Synapse's admin API, "Shared-secret registration").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::{
    accounts::Accounts,
    registration::{SharedSecretError, SharedSecretRegistration},
};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use crate::{
    error::ApiError,
    extract::{ClientAddress, JsonBody},
    rate_limit::{Limit, RateLimits},
};

pub const PATH: &str = "/_synapse/admin/v1/register";

#[derive(Deserialize)]
pub struct Request {
    nonce: String,
    username: String,
    password: String,
    mac: String,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    user_type: Option<String>,
}

pub async fn handle_nonce(State(accounts): State<Arc<Accounts>>) -> Result<Json<JsonValue>, ApiError> {
    let nonce = accounts.create_nonce().ok_or(SharedSecretError::Disabled)?;
    Ok(Json(json!({ "nonce": nonce })))
}

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    JsonBody(request): JsonBody<Request>,
) -> Result<Json<JsonValue>, ApiError> {
    limits.check_address(Limit::Registration, address)?;
    let Request { nonce, username, password, mac, admin, user_type } = request;
    let registration = SharedSecretRegistration { nonce, username, password, admin, user_type, mac };
    let session = accounts.register_with_shared_secret(&registration).await?;
    Ok(Json(json!({
        "access_token": session.tokens.access,
        "user_id": session.user_id,
        "home_server": accounts.server_name(),
        "device_id": session.device_id,
    })))
}
