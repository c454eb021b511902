//! What administrators of the server do through the client API: look at accounts, restrict them, tell their users something.

use axum::Router;
use chappe_services::{
    accounts::AdministerError,
    server_notices::{LeaveNoticesError, SendNoticeError},
};
use http::{Method, StatusCode};
use ruma::api::{client::admin as ruma_admin, error::ErrorCode};

use crate::{App, error::ApiError, route::Endpoints};

mod lock;
mod server_notice;
mod suspend;
#[cfg(test)]
mod tests;
mod whois;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_admin::get_user_info::v3::Request, _>(whois::handle)
        .endpoint::<ruma_admin::is_user_locked::v1::Request, _>(lock::get)
        .endpoint::<ruma_admin::is_user_suspended::v1::Request, _>(suspend::get)
        .endpoint::<ruma_admin::lock_user::v1::Request, _>(lock::put)
        .endpoint::<ruma_admin::suspend_user::v1::Request, _>(suspend::put)
        .at(Method::POST, server_notice::PATH, server_notice::post)
        .at(Method::PUT, server_notice::PATH_WITH_TRANSACTION, server_notice::put)
}

impl From<AdministerError> for ApiError {
    fn from(error: AdministerError) -> Self {
        match error {
            AdministerError::NotAdmin => Self::forbidden("Only administrators of this server may do this"),
            AdministerError::TargetIsAdmin => Self::forbidden("The account is another administrator's, or your own"),
            AdministerError::NotLocal => Self::invalid_param("The user is not of this server"),
            AdministerError::NotFound => Self::not_found("There is no such account"),
            AdministerError::Read(error) => error.into(),
            AdministerError::Write(error) => error.into(),
        }
    }
}

impl From<SendNoticeError> for ApiError {
    fn from(error: SendNoticeError) -> Self {
        match error {
            SendNoticeError::Disabled | SendNoticeError::NotLocal => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, error.to_string())
            }
            SendNoticeError::NotFound => Self::not_found("There is no such account"),
            SendNoticeError::Room(error) => error.into(),
            SendNoticeError::Read(error) => error.into(),
            SendNoticeError::Write(error) => error.into(),
        }
    }
}

impl From<LeaveNoticesError> for ApiError {
    fn from(error: LeaveNoticesError) -> Self {
        match error {
            LeaveNoticesError::Refused => {
                Self::new(StatusCode::FORBIDDEN, ErrorCode::CannotLeaveServerNoticeRoom, error.to_string())
            }
            LeaveNoticesError::Read(error) => error.into(),
        }
    }
}
