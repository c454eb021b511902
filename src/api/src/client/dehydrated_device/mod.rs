//! Dehydrated devices (MSC3814).

use axum::Router;
use chappe_services::keys::DehydrateError;
use ruma::api::client::dehydrated_device as ruma_dehydrated;

use crate::{App, error::ApiError, route::Endpoints};

mod delete;
mod events;
mod get;
mod put;
#[cfg(test)]
mod tests;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_dehydrated::delete_dehydrated_device::unstable::Request, _>(delete::handle)
        .endpoint::<ruma_dehydrated::get_dehydrated_device::unstable::Request, _>(get::handle)
        .endpoint::<ruma_dehydrated::get_events::unstable::Request, _>(events::handle)
        .endpoint::<ruma_dehydrated::put_dehydrated_device::unstable::Request, _>(put::handle)
}

fn none() -> ApiError {
    ApiError::not_found("There is no dehydrated device")
}

impl From<DehydrateError> for ApiError {
    fn from(error: DehydrateError) -> Self {
        match error {
            DehydrateError::BadDeviceId | DehydrateError::InUse => Self::invalid_param(error.to_string()),
            DehydrateError::TooLarge => Self::too_large(error.to_string()),
            DehydrateError::NoKeys => Self::missing_param(error.to_string()),
            DehydrateError::Keys(error) => error.into(),
            DehydrateError::Store(error) => error.into(),
            DehydrateError::Commit(error) => error.into(),
        }
    }
}
