//! POST /_matrix/media/v3/upload
//!
//! Client-server API, content repository.

use axum::{
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
};
use chappe_services::media::Media;
use http::{HeaderMap, header};
use ruma::api::client::media::create_content::v3;

use super::query::{UploadQuery, parsed};
use crate::{
    error::ApiError,
    extract::{RumaResponse, User},
};

pub(super) async fn upload(
    State(media): State<Media>,
    User(session): User,
    query: Result<Query<UploadQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<RumaResponse<v3::Response>, ApiError> {
    check_length(&headers, &media)?;
    let info = parsed(query)?.info(&headers);
    let content_uri = media.upload(&session.user_id, info, body.into_data_stream()).await?;
    Ok(RumaResponse(v3::Response::new(content_uri)))
}

/// Refuses what announces itself as too large before it is read.
pub(super) fn check_length(headers: &HeaderMap, media: &Media) -> Result<(), ApiError> {
    let bytes_max = media.config().upload_bytes_max;
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok());
    match length {
        Some(length) if length > bytes_max => {
            Err(ApiError::too_large(format!("the file is larger than the {bytes_max} bytes this server takes")))
        }
        _ => Ok(()),
    }
}
