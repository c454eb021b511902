//! GET /_matrix/federation/v1/media/thumbnail/{mediaId}
//!
//! Server-server API, content repository. Answers for this server's own media only, as `multipart/mixed`.

use axum::{extract::State, response::Response};
use chappe_services::media::{Access, Media, thumbnails::Method};
use ruma::{api::federation::authenticated_media::get_content_thumbnail::v1::Request, media};

use super::media_download::answer_in_parts;
use crate::{error::ApiError, extract::Signed, media::query::WAIT_MAX};

pub async fn media_thumbnail(
    State(media): State<Media>,
    Signed { body, .. }: Signed<Request>,
) -> Result<Response, ApiError> {
    let method = match body.method {
        None | Some(media::Method::Scale) => Method::Scale,
        Some(media::Method::Crop) => Method::Crop,
        Some(_) => return Err(ApiError::invalid_param("method must be crop or scale")),
    };
    let (Ok(width @ 1..), Ok(height @ 1..)) = (u32::try_from(body.width), u32::try_from(body.height)) else {
        return Err(ApiError::invalid_param("width and height must be positive, and no more than 32 bits"));
    };
    let file = media.get_own_file(&body.media_id, Access::Authenticated, body.timeout_ms.min(WAIT_MAX)).await?;
    let server = media.server_name().to_owned();
    let thumbnail = media.get_thumbnail(&server, file, width, height, method, body.animated).await?;
    answer_in_parts(&thumbnail).await
}
