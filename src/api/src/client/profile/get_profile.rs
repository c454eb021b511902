//! GET /_matrix/client/v3/profile/{userId} (client-server API, "Profiles").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::{
    app_services::client::AppServices,
    profile::{Profile, Profiles},
};
use ruma::OwnedUserId;

use crate::{error::ApiError, extract::PathParams};

pub async fn handle(
    State(profiles): State<Arc<Profiles>>,
    State(app_services): State<AppServices>,
    PathParams(user_id): PathParams<OwnedUserId>,
) -> Result<Json<Profile>, ApiError> {
    app_services.ensure_user(&user_id).await?;
    let profile = profiles.get_profile(&user_id).await?;
    profile.map(Json).ok_or_else(|| ApiError::not_found("There is no such user"))
}
