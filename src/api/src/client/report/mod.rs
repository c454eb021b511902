//! Reporting events, rooms and users to the operator.

use axum::Router;
use chappe_services::reports::ReportError;
use ruma::api::client as ruma_client;

use crate::{App, error::ApiError, route::Endpoints};

mod event;
mod room;
#[cfg(test)]
mod tests;
mod user;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_client::reporting::report_user::v3::Request, _>(user::handle)
        .endpoint::<ruma_client::room::report_content::v3::Request, _>(event::handle)
        .endpoint::<ruma_client::room::report_room::v3::Request, _>(room::handle)
}

impl From<ReportError> for ApiError {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::NotFound => Self::not_found("The event was not found, or you are not in its room"),
            ReportError::TooLong => Self::invalid_param(error.to_string()),
            ReportError::Room(error) => error.into(),
            ReportError::Read(error) => error.into(),
            ReportError::Write(error) => error.into(),
        }
    }
}
