//! Searching: in the messages of rooms, and for users.

use axum::Router;
use chappe_services::{search::SearchError, user_directory::SearchUsersError};
use ruma::api::client as ruma_client;

use crate::{App, error::ApiError, route::Endpoints};

mod events;
mod users;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_client::search::search_events::v3::Request, _>(events::handle)
        .endpoint::<ruma_client::user_directory::search_users::v3::Request, _>(users::handle)
}

impl From<SearchError> for ApiError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Disabled => Self::forbidden("Search is disabled on this server"),
            SearchError::Invalid(message) => Self::invalid_param(message),
            SearchError::Index(error) => Self::internal(error),
            SearchError::Room(error) => error.into(),
            SearchError::Read(error) => error.into(),
            SearchError::Task(error) => Self::internal(error),
        }
    }
}

impl From<SearchUsersError> for ApiError {
    fn from(error: SearchUsersError) -> Self {
        match error {
            SearchUsersError::Read(error) => error.into(),
            SearchUsersError::Task(error) => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests;
