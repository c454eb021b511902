//! GET /_matrix/client/v3/profile/{userId} (client-server API, "Profiles").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::profile::{Profile, Profiles};
use ruma::OwnedUserId;

use crate::{error::ApiError, extract::PathParams};

pub async fn handle(
    State(profiles): State<Arc<Profiles>>,
    PathParams(user_id): PathParams<OwnedUserId>,
) -> Result<Json<Profile>, ApiError> {
    let profile = profiles.get_profile(&user_id).await?;
    profile.map(Json).ok_or_else(|| ApiError::not_found("There is no such user"))
}
