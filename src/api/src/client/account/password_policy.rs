//! GET /_matrix/client/v3/password_policy, and under `r0` (MSC2000, "Server-side password policies").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::accounts::Accounts;
use serde_json::{Map, Value, json};

pub const PATHS: [&str; 2] = ["/_matrix/client/v3/password_policy", "/_matrix/client/r0/password_policy"];

pub async fn handle(State(accounts): State<Arc<Accounts>>) -> Json<Value> {
    let policy = accounts.password_policy();
    let mut shown = Map::new();
    if policy.length_min > 0 {
        shown.insert("m.minimum_length".to_owned(), json!(policy.length_min));
    }
    for (name, is_required) in [
        ("m.require_digit", policy.require_digit),
        ("m.require_symbol", policy.require_symbol),
        ("m.require_lowercase", policy.require_lowercase),
        ("m.require_uppercase", policy.require_uppercase),
    ] {
        if is_required {
            shown.insert(name.to_owned(), true.into());
        }
    }
    Json(shown.into())
}
