//! Room tags.

use axum::Router;
use chappe_services::tags::SetTagError;
use ruma::{UserId, api::client::tag as ruma_tag};

use crate::{App, error::ApiError, route::Endpoints};

mod delete_tag;
mod get_tags;
mod set_tag;
#[cfg(test)]
mod tests;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_tag::create_tag::v3::Request, _>(set_tag::handle)
        .endpoint::<ruma_tag::delete_tag::v3::Request, _>(delete_tag::handle)
        .endpoint::<ruma_tag::get_tags::v3::Request, _>(get_tags::handle)
}

fn check_own(own: &UserId, user_id: &UserId) -> Result<(), ApiError> {
    if own == user_id { Ok(()) } else { Err(ApiError::forbidden("Tags are for their own user only")) }
}

impl From<SetTagError> for ApiError {
    fn from(error: SetTagError) -> Self {
        match error {
            SetTagError::TooLong | SetTagError::TooMany => Self::invalid_param(error.to_string()),
            SetTagError::Read(error) => error.into(),
            SetTagError::Write(error) => error.into(),
        }
    }
}
