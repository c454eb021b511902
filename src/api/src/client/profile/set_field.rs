//! PUT /_matrix/client/v3/profile/{userId}/{keyName} (client-server API, "Profiles").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::{
    accounts::Session,
    profile::{ProfileChange, Profiles},
};
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value as JsonValue, json};

use crate::{
    error::ApiError,
    extract::{JsonBody, PathParams, User},
};

pub async fn handle(
    State(profiles): State<Arc<Profiles>>,
    User(session): User,
    PathParams((user_id, field)): PathParams<(OwnedUserId, String)>,
    JsonBody(mut body): JsonBody<Map<String, JsonValue>>,
) -> Result<Json<JsonValue>, ApiError> {
    check_own(&session, &user_id)?;
    let value = body.remove(&field);
    // Older clients take away a name or avatar by leaving it off.
    if value.is_none() && !matches!(field.as_str(), "displayname" | "avatar_url") {
        return Err(ApiError::missing_param(format!("The body has no {field}")));
    }
    change(&profiles, &user_id, &field, value).await?;
    Ok(Json(json!({})))
}

/// Writes the field.
pub(super) async fn change(
    profiles: &Profiles,
    user_id: &UserId,
    field: &str,
    value: Option<JsonValue>,
) -> Result<ProfileChange, ApiError> {
    Ok(profiles.set(user_id, field, value).await?)
}

pub(super) fn check_own(session: &Session, user_id: &UserId) -> Result<(), ApiError> {
    if session.user_id == user_id { Ok(()) } else { Err(ApiError::forbidden("Other users' profiles cannot be changed")) }
}
