//! POST /_matrix/media/v1/create
//!
//! Client-server API, content repository.

use axum::extract::State;
use chappe_services::media::Media;
use ruma::{MilliSecondsSinceUnixEpoch, UInt, api::client::media::create_mxc_uri::v1};

use crate::{
    error::ApiError,
    extract::{RumaResponse, User},
};

pub(super) async fn create(
    State(media): State<Media>,
    User(session): User,
) -> Result<RumaResponse<v1::Response>, ApiError> {
    let (content_uri, expires_ms) = media.create(&session.user_id).await?;
    let unused_expires_at = Some(MilliSecondsSinceUnixEpoch(UInt::new_saturating(expires_ms)));
    let mut response = v1::Response::new(content_uri);
    response.unused_expires_at = unused_expires_at;
    Ok(RumaResponse(response))
}
