//! GET /_matrix/client/v1/media/preview_url, GET /_matrix/media/v3/preview_url
//!
//! Client-server API, content repository. The older path asks for an access token too. Pages are not kept as they were at other
//! times, so `ts` makes no difference.

use axum::extract::{Query, State};
use chappe_services::previews::{PreviewError, Previews};
use http::StatusCode;
use ruma::api::error::ErrorCode;
use serde::Deserialize;

use crate::{
    error::ApiError,
    extract::{JsonText, User},
};

#[derive(Deserialize)]
pub(super) struct PreviewQuery {
    url: Option<String>,
}

pub(super) async fn preview(
    State(previews): State<Previews>,
    _: User,
    Query(query): Query<PreviewQuery>,
) -> Result<JsonText, ApiError> {
    let url = query.url.ok_or_else(|| ApiError::missing_param("The url is missing"))?;
    Ok(JsonText(previews.get_preview(&url).await?))
}

impl From<PreviewError> for ApiError {
    fn from(error: PreviewError) -> Self {
        match error {
            PreviewError::Disabled => Self::new(StatusCode::NOT_FOUND, ErrorCode::Unrecognized, error.to_string()),
            PreviewError::InvalidUrl => Self::invalid_param(error.to_string()),
            PreviewError::NotAllowed => Self::forbidden(error.to_string()),
            PreviewError::Fetch(cause) => {
                tracing::debug!(cause, "a page could not be fetched for its preview");
                Self::new(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, "The page could not be fetched")
            }
            PreviewError::TimedOut => Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unknown, error.to_string()),
            PreviewError::Read(error) => error.into(),
            PreviewError::Write(error) => error.into(),
        }
    }
}
