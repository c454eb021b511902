//! GET /.well-known/matrix/support (client-server API, "Server Discovery").

use std::sync::Arc;

use axum::{Json, extract::State};
use ruma::OwnedUserId;
use serde::Serialize;
use serde_json::{Map, Value as JsonValue, json};

use super::DiscoveryConfig;
use crate::error::ApiError;

/// Somebody to turn to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SupportContact {
    /// `m.role.admin`, `m.role.security`, or another.
    pub role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matrix_id: Option<OwnedUserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_address: Option<String>,
}

pub async fn handle(State(config): State<Arc<DiscoveryConfig>>) -> Result<Json<JsonValue>, ApiError> {
    let mut body = Map::new();
    if !config.support_contacts.is_empty() {
        body.insert("contacts".to_owned(), json!(config.support_contacts));
    }
    if let Some(page) = &config.support_page {
        body.insert("support_page".to_owned(), json!(page));
    }
    if body.is_empty() { Err(ApiError::not_found("No support contact is configured")) } else { Ok(Json(body.into())) }
}
