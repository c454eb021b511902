//! POST /_matrix/client/v3/account/3pid/msisdn/requestToken, POST /_matrix/client/v3/account/password/msisdn/requestToken and
//! POST /_matrix/client/v3/register/msisdn/requestToken (client-server API).
//!
//! This server sends no text messages.

use http::StatusCode;
use ruma::api::{
    client::account::{
        request_3pid_management_token_via_msisdn as adding, request_password_change_token_via_msisdn as resetting,
        request_registration_token_via_msisdn as registering,
    },
    error::ErrorCode,
};

use crate::{error::ApiError, extract::Ruma};

fn unsupported() -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        ErrorCode::ThreepidMediumNotSupported,
        "This server does not send text messages to telephones",
    )
}

pub async fn to_add(Ruma(_): Ruma<adding::v3::Request>) -> ApiError {
    unsupported()
}

pub async fn to_reset(Ruma(_): Ruma<resetting::v3::Request>) -> ApiError {
    unsupported()
}

pub async fn to_register(Ruma(_): Ruma<registering::v3::Request>) -> ApiError {
    unsupported()
}
