//! GET /_matrix/client/v3/register/available (client-server API, "Account registration").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{accounts::Accounts, registration::RegistrationMode};
use ruma::api::client::account::get_username_availability::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    // Where nobody can register, nobody needs to find out who has.
    if accounts.registration_config().mode == RegistrationMode::Closed {
        return Err(ApiError::forbidden("Registration is closed"));
    }
    accounts.check_username(&request.username)?;
    Ok(RumaResponse(Response::new(true)))
}
