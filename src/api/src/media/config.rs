//! GET /_matrix/client/v1/media/config, GET /_matrix/media/v3/config
//!
//! Client-server API, content repository. The older path asks for an access token too.

use axum::extract::State;
use chappe_services::media::Media;
use ruma::{UInt, api::client::authenticated_media::get_media_config::v1};

use crate::{
    error::ApiError,
    extract::{Authenticated, RumaResponse},
};

pub(super) async fn config(
    State(media): State<Media>,
    _: Authenticated,
) -> Result<RumaResponse<v1::Response>, ApiError> {
    Ok(RumaResponse(v1::Response::new(UInt::new_saturating(media.config().upload_bytes_max))))
}
