//! POST /_matrix/client/v3/account/3pid/email/requestToken, POST /_matrix/client/v3/account/password/email/requestToken and
//! POST /_matrix/client/v3/register/email/requestToken (client-server API, "Adding Account Administrative Contact Information", "Account management" and
//! "Account registration").
//!
//! Anybody may ask, and is answered alike whether an account has the address or not.

use std::sync::Arc;

use axum::extract::State;
use chappe_services::emails::{Emails, Purpose, TokenRequest};
use ruma::{
    OwnedSessionId,
    api::client::account::{
        request_3pid_management_token_via_email as adding, request_password_change_token_via_email as resetting,
        request_registration_token_via_email as registering,
    },
};

use super::session_id;
use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse},
    rate_limit::{Limit, RateLimits},
};

async fn request_token(
    emails: &Emails,
    limits: &RateLimits,
    request: TokenRequest<'_>,
) -> Result<OwnedSessionId, ApiError> {
    // The layer above counts the client's address; here it is whoever is written to that is spared.
    limits.check_mailbox(Limit::EmailToken, request.address)?;
    session_id(emails.request_token(&request).await?)
}

pub async fn to_add(
    State(emails): State<Arc<Emails>>,
    State(limits): State<Arc<RateLimits>>,
    Ruma(request): Ruma<adding::v3::Request>,
) -> Result<RumaResponse<adding::v3::Response>, ApiError> {
    let request = TokenRequest {
        purpose: Purpose::AddAddress,
        client_secret: request.client_secret.as_str(),
        address: &request.email,
        send_attempt: request.send_attempt.into(),
        next_link: request.next_link.as_deref(),
    };
    Ok(RumaResponse(adding::v3::Response::new(request_token(&emails, &limits, request).await?)))
}

pub async fn to_reset(
    State(emails): State<Arc<Emails>>,
    State(limits): State<Arc<RateLimits>>,
    Ruma(request): Ruma<resetting::v3::Request>,
) -> Result<RumaResponse<resetting::v3::Response>, ApiError> {
    let request = TokenRequest {
        purpose: Purpose::ResetPassword,
        client_secret: request.client_secret.as_str(),
        address: &request.email,
        send_attempt: request.send_attempt.into(),
        next_link: request.next_link.as_deref(),
    };
    Ok(RumaResponse(resetting::v3::Response::new(request_token(&emails, &limits, request).await?)))
}

pub async fn to_register(
    State(emails): State<Arc<Emails>>,
    State(limits): State<Arc<RateLimits>>,
    Ruma(request): Ruma<registering::v3::Request>,
) -> Result<RumaResponse<registering::v3::Response>, ApiError> {
    let request = TokenRequest {
        purpose: Purpose::Register,
        client_secret: request.client_secret.as_str(),
        address: &request.email,
        send_attempt: request.send_attempt.into(),
        next_link: request.next_link.as_deref(),
    };
    Ok(RumaResponse(registering::v3::Response::new(request_token(&emails, &limits, request).await?)))
}
