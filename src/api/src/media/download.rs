//! GET /_matrix/client/v1/media/download/{serverName}/{mediaId}, with and without /{fileName}, and their older forms
//! GET /_matrix/media/v3/download/..., which ask for no access token.
//!
//! Client-server API, content repository.

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use chappe_services::media::{Access, Media};
use http::HeaderMap;
use ruma::ServerName;

use super::{
    query::{DownloadQuery, parsed, server_name},
    serve::serve,
};
use crate::{
    error::ApiError,
    extract::{Authenticated, PathParams},
};

type RawQuery = Result<Query<DownloadQuery>, QueryRejection>;

pub(super) async fn download(
    State(media): State<Media>,
    _: Authenticated,
    PathParams((server, media_id)): PathParams<(String, String)>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(&media, &server_name(&server)?, &media_id, None, &parsed(query)?, &headers, Access::Authenticated).await
}

pub(super) async fn download_as(
    State(media): State<Media>,
    _: Authenticated,
    PathParams((server, media_id, filename)): PathParams<(String, String, String)>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(&media, &server_name(&server)?, &media_id, Some(filename), &parsed(query)?, &headers, Access::Authenticated)
        .await
}

pub(super) async fn download_openly(
    State(media): State<Media>,
    PathParams((server, media_id)): PathParams<(String, String)>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(&media, &server_name(&server)?, &media_id, None, &parsed(query)?, &headers, Access::Legacy).await
}

pub(super) async fn download_openly_as(
    State(media): State<Media>,
    PathParams((server, media_id, filename)): PathParams<(String, String, String)>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(&media, &server_name(&server)?, &media_id, Some(filename), &parsed(query)?, &headers, Access::Legacy).await
}

async fn answer(
    media: &Media,
    server: &ServerName,
    media_id: &str,
    filename: Option<String>,
    query: &DownloadQuery,
    headers: &HeaderMap,
    access: Access,
) -> Result<Response, ApiError> {
    let mut file = query.file(media, server, media_id, access).await?;
    if filename.is_some() {
        file.filename = filename;
    }
    serve(&file, headers, access).await
}
