//! DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag} (client-server API, "Room Tagging").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{account_data::AccountData, tags};
use ruma::api::client::tag::delete_tag::v3::{Request, Response};

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
    tags::delete_tag(&account_data, &session.user_id, &request.room_id, &request.tag).await?;
    Ok(RumaResponse(Response::new()))
}
