//! Endpoints of the family `to_device`.

use axum::Router;
use chappe_services::to_device::SendError;
use ruma::api::client::to_device::send_event_to_device;

use crate::{App, error::ApiError, route::Endpoints};

mod send;
#[cfg(test)]
mod tests;

pub fn router() -> Router<App> {
    Router::new().endpoint::<send_event_to_device::v3::Request, _>(send::handle)
}

impl From<SendError> for ApiError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::BadTransactionId => Self::invalid_param(error.to_string()),
            SendError::TooLarge => Self::too_large(error.to_string()),
            SendError::Store(error) => error.into(),
            SendError::Commit(error) => error.into(),
        }
    }
}
