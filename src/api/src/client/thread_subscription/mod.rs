//! Subscriptions to threads (MSC4306, MSC4308).

use axum::Router;
use chappe_services::thread_subscriptions::{ChangeSubscriptionError, ListChangesError};
use http::StatusCode;
use ruma::api::client::threads::{
    get_thread_subscription, get_thread_subscriptions_changes, subscribe_thread, unsubscribe_thread,
};

use crate::{App, error::ApiError, route::Endpoints};

mod get_subscription;
mod list_changes;
mod subscribe;
mod unsubscribe;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<get_thread_subscription::unstable::Request, _>(get_subscription::handle)
        .endpoint::<get_thread_subscriptions_changes::unstable::Request, _>(list_changes::handle)
        .endpoint::<subscribe_thread::unstable::Request, _>(subscribe::handle)
        .endpoint::<unsubscribe_thread::unstable::Request, _>(unsubscribe::handle)
}

impl From<ChangeSubscriptionError> for ApiError {
    fn from(error: ChangeSubscriptionError) -> Self {
        let message = error.to_string();
        match error {
            ChangeSubscriptionError::NotFound => Self::not_found(message),
            ChangeSubscriptionError::NotInThread => {
                Self::new(StatusCode::BAD_REQUEST, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD".into(), message)
            }
            ChangeSubscriptionError::Unsubscribed => {
                Self::new(StatusCode::CONFLICT, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION".into(), message)
            }
            ChangeSubscriptionError::Room(error) => error.into(),
            ChangeSubscriptionError::Read(error) => error.into(),
            ChangeSubscriptionError::Write(error) => error.into(),
        }
    }
}

impl From<ListChangesError> for ApiError {
    fn from(error: ListChangesError) -> Self {
        match error {
            ListChangesError::InvalidToken => Self::invalid_param(error.to_string()),
            ListChangesError::Read(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
