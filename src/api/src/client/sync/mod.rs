//! Syncing.

use axum::Router;
use chappe_services::sync::SyncError;
use ruma::api::client::sync as ruma_sync;

use crate::{App, error::ApiError, route::Endpoints};

mod get_sync;

pub fn router() -> Router<App> {
    Router::new().endpoint::<ruma_sync::sync_events::v3::Request, _>(get_sync::handle)
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
