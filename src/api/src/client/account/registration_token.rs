//! GET /_matrix/client/v1/register/m.login.registration_token/validity (client-server API, "Account registration").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{accounts::Accounts, registration::RegistrationMode};
use ruma::api::client::account::check_registration_token_validity::v1::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if accounts.registration_config().mode == RegistrationMode::Closed {
        return Err(ApiError::forbidden("Registration is closed"));
    }
    Ok(RumaResponse(Response::new(accounts.is_registration_token(&request.token))))
}
