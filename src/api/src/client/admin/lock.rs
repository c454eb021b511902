//! GET and PUT /_matrix/client/v1/admin/lock/{userId} (client-server API, "Server Administration").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::accounts::{Accounts, Restriction};
use ruma::api::client::admin::{is_user_locked, lock_user};

use crate::{
    error::ApiError,
    extract::{Admin, Ruma, RumaResponse},
};

pub async fn get(
    State(accounts): State<Arc<Accounts>>,
    Admin(session): Admin,
    Ruma(request): Ruma<is_user_locked::v1::Request>,
) -> Result<RumaResponse<is_user_locked::v1::Response>, ApiError> {
    let locked = accounts.get_restriction(&session, &request.user_id, Restriction::Lock)?;
    Ok(RumaResponse(is_user_locked::v1::Response::new(locked)))
}

pub async fn put(
    State(accounts): State<Arc<Accounts>>,
    Admin(session): Admin,
    Ruma(request): Ruma<lock_user::v1::Request>,
) -> Result<RumaResponse<lock_user::v1::Response>, ApiError> {
    accounts.set_restriction(&session, &request.user_id, Restriction::Lock, request.locked).await?;
    Ok(RumaResponse(lock_user::v1::Response::new(request.locked)))
}
