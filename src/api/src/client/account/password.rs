//! POST /_matrix/client/v3/account/password (client-server API, "Account management").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{
    accounts::{Accounts, LogOutOthers},
    emails::Emails,
    uia::Uia,
};
use ruma::api::client::account::change_password::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{ClientAddress, OptionalUser, Ruma, RumaResponse, StepUp},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    State(emails): State<Arc<Emails>>,
    OptionalUser(session): OptionalUser,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let log_out_others = if request.logout_devices { LogOutOthers::Yes } else { LogOutOthers::No };
    let Some(session) = session else {
        // Who has forgotten the password proves to read the account's email address.
        if !emails.is_enabled() {
            return Err(ApiError::missing_token());
        }
        limits.check_address(Limit::Authentication, address)?;
        accounts.check_new_password(&request.new_password)?;
        let email = uia.authorize_by_email("change password", request.auth.as_ref(), address).await?;
        let user_id = emails.get_user(&email.address)?;
        let user_id = user_id.ok_or_else(|| ApiError::forbidden("No account has this email address"))?;
        emails.spend(&email).await?;
        accounts.replace_password(&user_id, &request.new_password, log_out_others).await?;
        return Ok(RumaResponse(Response::new()));
    };
    if session.is_guest {
        return Err(ApiError::guest_forbidden());
    }
    if session.app_service.is_some() {
        return Err(ApiError::forbidden("Application services do not manage their users' accounts"));
    }
    let step_up = StepUp::new(session, address, uia, limits);
    let session = step_up.authorize("change password", request.auth.as_ref()).await?;
    accounts.change_password(&session, &request.new_password, log_out_others).await?;
    Ok(RumaResponse(Response::new()))
}
