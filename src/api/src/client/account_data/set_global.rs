//! PUT /_matrix/client/v3/user/{userId}/account_data/{type} (client-server API, "Client Config").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::account_data::AccountData;
use ruma::api::client::config::set_global_account_data::v3::{Request, Response};

use super::check_own;
use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(account_data): State<Arc<AccountData>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    check_own(&session.user_id, &request.user_id)?;
    account_data.put(&session.user_id, None, &request.event_type.to_string(), request.data.json()).await?;
    Ok(RumaResponse(Response::new()))
}
