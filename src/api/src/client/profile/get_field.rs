//! GET /_matrix/client/v3/profile/{userId}/{keyName} (client-server API, "Profiles").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::profile::{Profile, Profiles};
use ruma::OwnedUserId;

use crate::{error::ApiError, extract::PathParams};

pub async fn handle(
    State(profiles): State<Arc<Profiles>>,
    PathParams((user_id, field)): PathParams<(OwnedUserId, String)>,
) -> Result<Json<Profile>, ApiError> {
    let profile = profiles.get_profile_field(&user_id, &field).await?;
    let profile = profile.ok_or_else(|| ApiError::not_found("There is no such user"))?;
    // Clients have long been told by an empty object, and not by an error, that a user has no name or avatar.
    if profile.is_empty() && !matches!(field.as_str(), "displayname" | "avatar_url") {
        return Err(ApiError::not_found("The profile has no such field"));
    }
    Ok(Json(profile))
}
