//! GET and PUT /_matrix/client/v1/admin/suspend/{userId} (client-server API, "Server Administration").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::accounts::{Accounts, Restriction};
use ruma::api::client::admin::{is_user_suspended, suspend_user};

use crate::{
    error::ApiError,
    extract::{Admin, Ruma, RumaResponse},
};

pub async fn get(
    State(accounts): State<Arc<Accounts>>,
    Admin(session): Admin,
    Ruma(request): Ruma<is_user_suspended::v1::Request>,
) -> Result<RumaResponse<is_user_suspended::v1::Response>, ApiError> {
    let suspended = accounts.get_restriction(&session, &request.user_id, Restriction::Suspend)?;
    Ok(RumaResponse(is_user_suspended::v1::Response::new(suspended)))
}

pub async fn put(
    State(accounts): State<Arc<Accounts>>,
    Admin(session): Admin,
    Ruma(request): Ruma<suspend_user::v1::Request>,
) -> Result<RumaResponse<suspend_user::v1::Response>, ApiError> {
    accounts.set_restriction(&session, &request.user_id, Restriction::Suspend, request.suspended).await?;
    Ok(RumaResponse(suspend_user::v1::Response::new(request.suspended)))
}
