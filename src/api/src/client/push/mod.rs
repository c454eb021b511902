//! Push rules, pushers and notifications.

use axum::Router;
use chappe_services::push::{
    notifications::ListError, pushers::SetPusherError, rules::ChangeRulesError, unsubscribe::UNSUBSCRIBE_PATH,
};
use http::{Method, StatusCode};
use ruma::{
    api::{client::push as ruma_push, error::ErrorCode},
    push::InsertPushRuleError,
};

use crate::{App, error::ApiError, route::Endpoints};

mod delete_pushrule;
mod get_notifications;
mod get_pushers;
mod get_pushrule;
mod get_pushrule_actions;
mod get_pushrule_enabled;
mod get_pushrules_all;
mod get_pushrules_global;
mod set_pusher;
mod set_pushrule;
mod set_pushrule_actions;
mod set_pushrule_enabled;
#[cfg(test)]
mod tests;
mod unsubscribe;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_push::delete_pushrule::v3::Request, _>(delete_pushrule::handle)
        .endpoint::<ruma_push::get_notifications::v3::Request, _>(get_notifications::handle)
        .endpoint::<ruma_push::get_pushers::v3::Request, _>(get_pushers::handle)
        .endpoint::<ruma_push::get_pushrule::v3::Request, _>(get_pushrule::handle)
        .endpoint::<ruma_push::get_pushrule_actions::v3::Request, _>(get_pushrule_actions::handle)
        .endpoint::<ruma_push::get_pushrule_enabled::v3::Request, _>(get_pushrule_enabled::handle)
        .endpoint::<ruma_push::get_pushrules_all::v3::Request, _>(get_pushrules_all::handle)
        .endpoint::<ruma_push::get_pushrules_global_scope::v3::Request, _>(get_pushrules_global::handle)
        .endpoint::<ruma_push::set_pusher::v3::Request, _>(set_pusher::handle)
        .endpoint::<ruma_push::set_pushrule::v3::Request, _>(set_pushrule::handle)
        .endpoint::<ruma_push::set_pushrule_actions::v3::Request, _>(set_pushrule_actions::handle)
        .endpoint::<ruma_push::set_pushrule_enabled::v3::Request, _>(set_pushrule_enabled::handle)
        .at(Method::GET, UNSUBSCRIBE_PATH, unsubscribe::ask)
        .at(Method::POST, UNSUBSCRIBE_PATH, unsubscribe::unsubscribe)
}

fn no_such_rule() -> ApiError {
    ApiError::not_found("The push rule was not found")
}

impl From<ChangeRulesError> for ApiError {
    fn from(error: ChangeRulesError) -> Self {
        match error {
            ChangeRulesError::NotFound => no_such_rule(),
            ChangeRulesError::ServerDefault => Self::invalid_param("Rules of the server cannot be deleted"),
            ChangeRulesError::IdTooLong => Self::invalid_param("The rule's ID is too long"),
            ChangeRulesError::Invalid(InsertPushRuleError::UnknownRuleId) => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, "before or after names a rule that is not there")
            }
            ChangeRulesError::Invalid(error) => Self::invalid_param(error.to_string()),
            ChangeRulesError::TooLarge => Self::too_large("There are too many push rules"),
            ChangeRulesError::Read(error) => error.into(),
            ChangeRulesError::Write(error) => error.into(),
        }
    }
}

impl From<SetPusherError> for ApiError {
    fn from(error: SetPusherError) -> Self {
        match error {
            SetPusherError::Invalid(message) => Self::invalid_param(message),
            SetPusherError::MissingUrl => Self::missing_param("data of an HTTP pusher needs a url"),
            SetPusherError::NotOwnAddress => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::ThreepidNotFound,
                "Your account does not have this email address",
            ),
            SetPusherError::TooMany => Self::invalid_param("There are too many pushers"),
            SetPusherError::Read(error) => error.into(),
            SetPusherError::Write(error) => error.into(),
        }
    }
}

impl From<ListError> for ApiError {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Room(error) => error.into(),
            ListError::Store(error) => error.into(),
            ListError::Aborted(cause) => Self::internal(cause),
        }
    }
}
