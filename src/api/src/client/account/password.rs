//! POST /_matrix/client/v3/account/password (client-server API, "Account management").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{
    accounts::{Accounts, LogOutOthers},
    uia::Uia,
};
use ruma::api::client::account::change_password::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{ClientAddress, Ruma, RumaResponse, User},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    // Without a token the password could only be reset by email, which this server does not offer.
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if session.app_service.is_some() {
        return Err(ApiError::forbidden("Application services do not manage their users' accounts"));
    }
    if request.auth.is_some() {
        limits.check_session(Limit::Authentication, &session)?;
    }
    uia.authorize_user(&session, "change password", request.auth.as_ref(), address).await?;
    let log_out_others = if request.logout_devices { LogOutOthers::Yes } else { LogOutOthers::No };
    accounts.change_password(&session, &request.new_password, log_out_others).await?;
    Ok(RumaResponse(Response::new()))
}
