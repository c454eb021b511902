//! Delayed events (MSC4140): scheduling them, looking them up, and what is done with them later.
//!
//! Sending an event or state with a delay goes through the ordinary endpoints, which take [`Delay`].

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Router,
    extract::{FromRequestParts, Query},
};
use chappe_services::delayed_events::{ScheduleError, UpdateError};
use http::{StatusCode, request::Parts};
use ruma::api::{client::delayed_events as ruma_delayed, error::ErrorCode};

use crate::{App, error::ApiError, route::Endpoints};

mod get_all;
mod get_one;
mod schedule;
#[cfg(test)]
mod tests;
mod update;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_delayed::get_all_delayed_events::unstable::Request, _>(get_all::handle)
        .endpoint::<ruma_delayed::get_delayed_event::unstable::Request, _>(get_one::handle)
        .endpoint::<ruma_delayed::send_delayed_event::unstable::Request, _>(schedule::handle)
        .endpoint::<ruma_delayed::update_delayed_event::unstable_v1::Request, _>(update::handle_in_body)
        .endpoint::<ruma_delayed::update_delayed_event::unstable_v2::Request, _>(update::handle)
}

/// By how much a request to send an event asks to delay it: the query parameter `org.matrix.msc4140.delay`, in milliseconds.
pub struct Delay(pub Option<Duration>);

impl<S: Send + Sync> FromRequestParts<S> for Delay {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let invalid = || ApiError::invalid_param("The delay is a number of milliseconds");
        let Query(query) = Query::<BTreeMap<String, String>>::try_from_uri(&parts.uri).map_err(|_| invalid())?;
        let delay = query.get("org.matrix.msc4140.delay").map(|delay| delay.parse().map_err(|_| invalid()));
        Ok(Self(delay.transpose()?.map(Duration::from_millis)))
    }
}

impl From<ScheduleError> for ApiError {
    fn from(error: ScheduleError) -> Self {
        let refused = |error: &ScheduleError, errcode: &str| {
            Self::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, error.to_string())
                .with("org.matrix.msc4140.errcode", errcode)
        };
        match error {
            ScheduleError::Disabled => Self::forbidden(error.to_string()),
            ScheduleError::TooLong { delay_ms_max } => {
                refused(&error, "M_MAX_DELAY_EXCEEDED").with("org.matrix.msc4140.max_delay", delay_ms_max)
            }
            ScheduleError::TooMany => refused(&error, "M_MAX_DELAYED_EVENTS_EXCEEDED"),
            ScheduleError::Membership => Self::invalid_param(error.to_string()),
            ScheduleError::Room(error) => error.into(),
            ScheduleError::Read(error) => error.into(),
            ScheduleError::Write(error) => error.into(),
        }
    }
}

impl From<UpdateError> for ApiError {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::NotFound => Self::not_found(error.to_string()),
            UpdateError::Ended => Self::new(StatusCode::CONFLICT, ErrorCode::Unknown, error.to_string()),
            UpdateError::Room(error) => error.into(),
            UpdateError::Read(error) => error.into(),
            UpdateError::Write(error) => error.into(),
        }
    }
}
