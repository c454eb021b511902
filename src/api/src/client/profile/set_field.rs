//! PUT /_matrix/client/v3/profile/{userId}/{keyName} (client-server API, "Profiles").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::{Rooms, membership::MemberProfile};
use chappe_services::{
    accounts::Session,
    profile::{ProfileChange, Profiles},
};
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value as JsonValue, json};

use crate::{
    error::ApiError,
    extract::{Active, JsonBody, PathParams, User},
};

pub async fn handle(
    State(profiles): State<Arc<Profiles>>,
    State(rooms): State<Rooms>,
    Active(User(session)): Active<User>,
    PathParams((user_id, field)): PathParams<(OwnedUserId, String)>,
    JsonBody(mut body): JsonBody<Map<String, JsonValue>>,
) -> Result<Json<JsonValue>, ApiError> {
    check_own(&session, &user_id)?;
    let value = body.remove(&field);
    // Older clients take away a name or avatar by leaving it off.
    if value.is_none() && !matches!(field.as_str(), "displayname" | "avatar_url") {
        return Err(ApiError::missing_param(format!("The body has no {field}")));
    }
    change(&profiles, &rooms, &user_id, &field, value).await?;
    Ok(Json(json!({})))
}

/// Writes the field, and shows the user's rooms a new name or avatar.
pub(super) async fn change(
    profiles: &Profiles,
    rooms: &Rooms,
    user_id: &UserId,
    field: &str,
    value: Option<JsonValue>,
) -> Result<(), ApiError> {
    if profiles.set(user_id, field, value).await? == ProfileChange::Membership {
        let (display_name, avatar_url) = profiles.get_membership_profile(user_id)?;
        rooms.update_profile_in_rooms(user_id, &MemberProfile { display_name, avatar_url }).await?;
    }
    Ok(())
}

pub(super) fn check_own(session: &Session, user_id: &UserId) -> Result<(), ApiError> {
    if session.user_id == user_id {
        Ok(())
    } else {
        Err(ApiError::forbidden("Other users' profiles cannot be changed"))
    }
}
