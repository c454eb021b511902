//! GET /_matrix/client/v3/user/{userId}/account_data/{type} (client-server API, "Client Config").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::account_data::AccountData;
use ruma::api::client::config::get_global_account_data::v3::Request;

use super::check_own;
use crate::{
    error::ApiError,
    extract::{JsonText, Ruma, User},
};

pub async fn handle(
    State(account_data): State<Arc<AccountData>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<JsonText, ApiError> {
    check_own(&session.user_id, &request.user_id)?;
    let content = account_data.get(&session.user_id, None, &request.event_type.to_string())?;
    content.map(JsonText).ok_or_else(|| ApiError::not_found("There is no account data of this type"))
}
