//! DELETE /_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type} (MSC3391, "API to delete account
//! data").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::account_data::AccountData;
use ruma::{OwnedRoomId, OwnedUserId};

use super::check_own;
use crate::{
    error::ApiError,
    extract::{JsonText, PathParams, User},
};

pub const PATH: &str =
    "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/rooms/{room_id}/account_data/{event_type}";

pub async fn handle(
    State(account_data): State<Arc<AccountData>>,
    User(session): User,
    PathParams((user_id, room_id, event_type)): PathParams<(OwnedUserId, OwnedRoomId, String)>,
) -> Result<JsonText, ApiError> {
    check_own(&session.user_id, &user_id)?;
    account_data.delete(&user_id, Some(&room_id), &event_type).await?;
    Ok(JsonText("{}".to_owned()))
}
