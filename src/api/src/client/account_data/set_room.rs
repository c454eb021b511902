//! PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type} (client-server API, "Client Config").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::account_data::AccountData;
use ruma::api::client::config::set_room_account_data::v3::{Request, Response};

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
    account_data
        .put(&session.user_id, Some(&request.room_id), &request.event_type.to_string(), request.data.json())
        .await?;
    Ok(RumaResponse(Response::new()))
}
