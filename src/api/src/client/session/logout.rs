//! POST /_matrix/client/v3/logout (client-server API, "Login").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::accounts::Accounts;
use ruma::api::client::session::logout::v3::Response;

use crate::{
    error::ApiError,
    extract::{EvenIfLocked, RumaResponse},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    EvenIfLocked(session): EvenIfLocked,
) -> Result<RumaResponse<Response>, ApiError> {
    if session.device().is_none() {
        return Err(ApiError::forbidden("An application service has no session that could end"));
    }
    accounts.delete_session(&session).await?;
    Ok(RumaResponse(Response::new()))
}
