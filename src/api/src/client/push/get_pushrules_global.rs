//! GET /_matrix/client/v3/pushrules/global/ (client-server API, "Push Rules: API").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::push::rules::PushRules;
use ruma::api::client::push::get_pushrules_global_scope::v3::Request;

use crate::{
    error::ApiError,
    extract::{JsonText, Ruma, User},
};

pub async fn handle(
    State(rules): State<Arc<PushRules>>,
    User(session): User,
    Ruma(_): Ruma<Request>,
) -> Result<JsonText, ApiError> {
    Ok(JsonText(rules.get_global(&session.user_id)?.to_string()))
}
