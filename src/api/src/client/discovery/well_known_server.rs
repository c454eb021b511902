//! GET /.well-known/matrix/server (server-server API, "Server discovery").

use std::sync::Arc;

use axum::{Json, extract::State};
use serde_json::{Value as JsonValue, json};

use super::DiscoveryConfig;
use crate::error::ApiError;

pub async fn handle(State(config): State<Arc<DiscoveryConfig>>) -> Result<Json<JsonValue>, ApiError> {
    let host = config.federation_host.as_ref().ok_or_else(|| ApiError::not_found("No other host is configured"))?;
    Ok(Json(json!({ "m.server": host })))
}
