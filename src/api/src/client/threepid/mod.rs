//! Third-party identifiers: email addresses of accounts, and proving them (client-server API, "Adding Account Administrative Contact
//! Information").

use axum::Router;
use chappe_services::{
    emails::{AddEmailError, Emails, ProofError, RequestTokenError, SUBMIT_PATH},
    mail::SendMailError,
};
use http::{Method, StatusCode};
use ruma::{
    OwnedSessionId, SessionId,
    api::{client::account as ruma_account, error::ErrorCode},
};

use crate::{App, error::ApiError, route::Endpoints};

mod add;
mod add_deprecated;
mod bind;
mod delete;
mod email_token;
mod list;
mod msisdn_token;
mod submit_token;
#[cfg(test)]
mod tests;
mod unbind;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_account::add_3pid::v3::Request, _>(add::handle)
        .endpoint::<ruma_account::bind_3pid::v3::Request, _>(bind::handle)
        .endpoint::<ruma_account::delete_3pid::v3::Request, _>(delete::handle)
        .endpoint::<ruma_account::get_3pids::v3::Request, _>(list::handle)
        .endpoint::<ruma_account::request_3pid_management_token_via_email::v3::Request, _>(email_token::to_add)
        .endpoint::<ruma_account::request_3pid_management_token_via_msisdn::v3::Request, _>(msisdn_token::to_add)
        .endpoint::<ruma_account::request_password_change_token_via_email::v3::Request, _>(email_token::to_reset)
        .endpoint::<ruma_account::request_password_change_token_via_msisdn::v3::Request, _>(msisdn_token::to_reset)
        .endpoint::<ruma_account::request_registration_token_via_email::v3::Request, _>(email_token::to_register)
        .endpoint::<ruma_account::request_registration_token_via_msisdn::v3::Request, _>(msisdn_token::to_register)
        .endpoint::<ruma_account::unbind_3pid::v3::Request, _>(unbind::handle)
        .at(Method::POST, add_deprecated::PATH, add_deprecated::handle)
        .at(Method::POST, add_deprecated::OLD_PATH, add_deprecated::handle)
        .at(Method::GET, SUBMIT_PATH, submit_token::ask)
        .at(Method::POST, SUBMIT_PATH, submit_token::submit)
}

/// The id of a session, which this server makes of letters and digits.
fn session_id(sid: String) -> Result<OwnedSessionId, ApiError> {
    SessionId::parse(sid).map_err(ApiError::internal)
}

/// Refuses what needs mail on a server that sends none.
fn require_mail(emails: &Emails) -> Result<(), ApiError> {
    if emails.is_enabled() { Ok(()) } else { Err(RequestTokenError::Disabled.into()) }
}

impl From<RequestTokenError> for ApiError {
    fn from(error: RequestTokenError) -> Self {
        match error {
            RequestTokenError::Disabled => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::ThreepidMediumNotSupported, "This server sends no email")
            }
            RequestTokenError::InvalidAddress | RequestTokenError::InvalidLink => {
                Self::invalid_param(error.to_string())
            }
            RequestTokenError::Mail(SendMailError::Address) => Self::invalid_param("This is not an email address"),
            RequestTokenError::Mail(SendMailError::QueueFull) => {
                Self::unavailable("Too many mails are waiting to be sent; try again later")
            }
            RequestTokenError::Mail(error) => Self::internal(error),
            RequestTokenError::Read(error) => error.into(),
            RequestTokenError::Write(error) => error.into(),
        }
    }
}

impl From<ProofError> for ApiError {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::Unknown | ProofError::NotValidated => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::ThreepidAuthFailed, error.to_string())
            }
            ProofError::Read(error) => error.into(),
            ProofError::Write(error) => error.into(),
        }
    }
}

impl From<AddEmailError> for ApiError {
    fn from(error: AddEmailError) -> Self {
        match error {
            AddEmailError::InUse => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::ThreepidInUse, "The address belongs to another account")
            }
            AddEmailError::TooMany => Self::forbidden(error.to_string()),
            AddEmailError::NoAccount => Self::not_found(error.to_string()),
            AddEmailError::Read(error) => error.into(),
            AddEmailError::Write(error) => error.into(),
        }
    }
}
