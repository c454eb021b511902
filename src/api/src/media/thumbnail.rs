//! GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}, and its older form
//! GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}, which asks for no access token.
//!
//! Client-server API, content repository, thumbnails.

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use chappe_services::media::{Access, Media};
use http::HeaderMap;

use super::{
    query::{DownloadQuery, ThumbnailQuery, parsed, server_name},
    serve::serve,
};
use crate::{
    error::ApiError,
    extract::{Authenticated, PathParams},
};

type Size = Result<Query<ThumbnailQuery>, QueryRejection>;
type Options = Result<Query<DownloadQuery>, QueryRejection>;

pub(super) async fn thumbnail(
    State(media): State<Media>,
    _: Authenticated,
    PathParams((server, media_id)): PathParams<(String, String)>,
    size: Size,
    options: Options,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(&media, (server, media_id), size, options, &headers, Access::Authenticated).await
}

pub(super) async fn thumbnail_openly(
    State(media): State<Media>,
    PathParams((server, media_id)): PathParams<(String, String)>,
    size: Size,
    options: Options,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    answer(&media, (server, media_id), size, options, &headers, Access::Legacy).await
}

async fn answer(
    media: &Media,
    (server, media_id): (String, String),
    size: Size,
    options: Options,
    headers: &HeaderMap,
    access: Access,
) -> Result<Response, ApiError> {
    let server = server_name(&server)?;
    let size = parsed(size)?;
    size.check_size()?;
    let method = size.method()?;
    let file = parsed(options)?.file(media, &server, &media_id, access).await?;
    let thumbnail = media.get_thumbnail(&server, file, size.width, size.height, method, size.animated).await?;
    serve(&thumbnail, headers, access).await
}
