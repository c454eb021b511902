//! Syncing.

use axum::Router;
use chappe_services::{sliding_sync::SlidingSyncError, sync::SyncError};
use http::{Method, StatusCode};
use ruma::api::{client::sync as ruma_sync, error::ErrorCode};

use crate::{App, error::ApiError, route::Endpoints};

mod get_sync;
mod sliding_sync;
mod sliding_sync_stable;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_sync::sync_events::v3::Request, _>(get_sync::handle)
        .endpoint::<ruma_sync::sync_events::v5::Request, _>(sliding_sync::handle)
        .at(Method::POST, "/_matrix/client/v4/sync", sliding_sync_stable::handle)
}

impl From<SyncError> for ApiError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::InvalidToken(error) => Self::invalid_param(error.to_string()),
            SyncError::MalformedFilter => Self::invalid_param("The filter is malformed"),
            SyncError::UnknownFilter => Self::invalid_param("No such filter"),
            SyncError::Room(error) => error.into(),
            SyncError::Store(error) => error.into(),
            SyncError::Aborted(cause) => Self::internal(cause),
        }
    }
}

impl From<SlidingSyncError> for ApiError {
    fn from(error: SlidingSyncError) -> Self {
        match error {
            SlidingSyncError::UnknownPos => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::UnknownPos, "Unknown position: begin the connection anew")
            }
            SlidingSyncError::Invalid(message) => Self::invalid_param(message),
            SlidingSyncError::Room(error) => error.into(),
            SlidingSyncError::Store(error) => error.into(),
            SlidingSyncError::Commit(error) => error.into(),
            SlidingSyncError::Aborted(cause) => Self::internal(cause),
        }
    }
}
