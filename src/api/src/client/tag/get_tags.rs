//! GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags (client-server API, "Room Tagging").
//!
//! Written out as it is stored: ruma's type knows only what the specification lets stand beside a tag.

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::{account_data::AccountData, tags};
use ruma::api::client::tag::get_tags::v3::Request;
use serde_json::{Value, json};

use super::check_own;
use crate::{
    error::ApiError,
    extract::{Ruma, User},
};

pub async fn handle(
    State(account_data): State<Arc<AccountData>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Value>, ApiError> {
    check_own(&session.user_id, &request.user_id)?;
    let tags = tags::get_tags(&account_data, &session.user_id, &request.room_id)?;
    Ok(Json(json!({ "tags": tags })))
}
