//! GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions (MSC4308): changes that an answer of sliding sync had no
//! room for, backwards.

use axum::{Json, extract::State};
use chappe_services::thread_subscriptions::{SubscriptionSections, ThreadSubscriptions};
use ruma::api::client::threads::get_thread_subscriptions_changes::unstable::Request;
use serde::Serialize;

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma},
};

const LIMIT_DEFAULT: usize = 100;

/// The most changes in one answer.
const LIMIT_MAX: usize = 512;

#[derive(Serialize)]
pub struct Changes {
    #[serde(flatten)]
    sections: SubscriptionSections,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
}

pub async fn handle(
    State(subscriptions): State<ThreadSubscriptions>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Changes>, ApiError> {
    let limit = match request.limit {
        Some(limit) if limit == ruma::uint!(0) => return Err(ApiError::invalid_param("limit must not be 0")),
        Some(limit) => usize::try_from(limit).unwrap_or(LIMIT_MAX).min(LIMIT_MAX),
        None => LIMIT_DEFAULT,
    };
    let (sections, end) =
        subscriptions.list_changes(&session.user_id, request.from.as_deref(), request.to.as_deref(), limit)?;
    Ok(Json(Changes { sections, end }))
}
