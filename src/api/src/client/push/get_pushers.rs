//! GET /_matrix/client/v3/pushers (client-server API, "Push Notifications: Client behaviour").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::push::pushers::{Pushers, shown};
use ruma::api::client::push::get_pushers::v3::Request;
use serde_json::{Value, json};

use crate::{
    error::ApiError,
    extract::{JsonText, Ruma, User},
};

pub async fn handle(
    State(pushers): State<Arc<Pushers>>,
    User(session): User,
    Ruma(_): Ruma<Request>,
) -> Result<JsonText, ApiError> {
    let pushers = pushers.scan_pushers(&session.user_id)?;
    let pushers: Vec<Value> = pushers.iter().map(|(key, record)| shown(key, record)).collect();
    Ok(JsonText(json!({ "pushers": pushers }).to_string()))
}
