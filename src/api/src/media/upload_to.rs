//! PUT /_matrix/media/v3/upload/{serverName}/{mediaId}
//!
//! Client-server API, content repository.

use axum::{
    Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
};
use chappe_services::media::Media;
use http::HeaderMap;
use serde_json::{Value, json};

use super::{
    query::{UploadQuery, parsed, server_name},
    upload::check_length,
};
use crate::{
    error::ApiError,
    extract::{PathParams, User},
};

pub(super) async fn upload_to(
    State(media): State<Media>,
    User(session): User,
    PathParams((server, media_id)): PathParams<(String, String)>,
    query: Result<Query<UploadQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    check_length(&headers, &media)?;
    let info = parsed(query)?.info(&headers);
    media.upload_to(&session.user_id, &server_name(&server)?, &media_id, info, body.into_data_stream()).await?;
    Ok(Json(json!({})))
}
