//! GET /.well-known/matrix/client (client-server API, "Server Discovery").

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::{Value as JsonValue, json};

use super::DiscoveryConfig;
use crate::error::ApiError;

pub async fn handle(State(config): State<Arc<DiscoveryConfig>>) -> Result<Json<JsonValue>, ApiError> {
    let base_url = config.client_base_url.as_ref().ok_or_else(|| ApiError::not_found("No base URL is configured"))?;
    Ok(Json(json!({ "m.homeserver": { "base_url": base_url } })))
}
