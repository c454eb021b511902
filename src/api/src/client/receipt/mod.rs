//! Read receipts and the fully-read marker.

use axum::Router;
use chappe_services::receipts::SetReceiptError;
use ruma::api::client::{read_marker::set_read_marker, receipt::create_receipt};

use crate::{App, error::ApiError, route::Endpoints};

mod read_markers;
mod send_receipt;
#[cfg(test)]
mod tests;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<create_receipt::v3::Request, _>(send_receipt::handle)
        .endpoint::<set_read_marker::v3::Request, _>(read_markers::handle)
}

impl From<SetReceiptError> for ApiError {
    fn from(error: SetReceiptError) -> Self {
        match error {
            SetReceiptError::NotJoined => Self::forbidden("You are not in this room"),
            SetReceiptError::WrongRoom => Self::invalid_param("The event is not in this room"),
            SetReceiptError::Commit(error) => error.into(),
        }
    }
}
