//! DELETE /_matrix/client/v3/profile/{userId}/{keyName} (client-server API, "Profiles").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use chappe_services::profile::Profiles;
use ruma::OwnedUserId;
use serde_json::{Value as JsonValue, json};

use super::set_field::{change, check_own};
use crate::{
    error::ApiError,
    extract::{Active, PathParams, User},
};

pub async fn handle(
    State(profiles): State<Arc<Profiles>>,
    State(rooms): State<Rooms>,
    Active(User(session)): Active<User>,
    PathParams((user_id, field)): PathParams<(OwnedUserId, String)>,
) -> Result<Json<JsonValue>, ApiError> {
    check_own(&session, &user_id)?;
    change(&profiles, &rooms, &user_id, &field, None).await?;
    Ok(Json(json!({})))
}
