//! GET /_matrix/federation/v1/version
//!
//! Spec: Server-Server API, Server implementation.

use axum::Json;
use serde_json::{Value, json};

pub async fn version() -> Json<Value> {
    Json(json!({ "server": { "name": "Chappe", "version": env!("CARGO_PKG_VERSION") } }))
}
