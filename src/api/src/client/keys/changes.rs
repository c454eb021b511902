//! GET /_matrix/client/v3/keys/changes (client-server API, "Key management API").

use axum::extract::State;
use chappe_services::keys::{DeviceLists, parse_sync_token};
use ruma::api::client::keys::get_key_changes::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(device_lists): State<DeviceLists>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let from = parse_sync_token(&request.from).ok_or_else(|| ApiError::invalid_param("`from` is not a sync token"))?;
    let to = parse_sync_token(&request.to).ok_or_else(|| ApiError::invalid_param("`to` is not a sync token"))?;
    let changes = device_lists.changed_between(&session.user_id, from, to)?;
    let (changed, left) = (changes.changed.into_iter().collect(), changes.left.into_iter().collect());
    Ok(RumaResponse(Response::new(changed, left)))
}
