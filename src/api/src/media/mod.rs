//! The content repository for clients: uploads, downloads, thumbnails (client-server API, content repository).
//!
//! The files are not read into memory, so these endpoints take ruma's paths but not its request and response types. What other
//! servers download is in [`crate::federation`].

use axum::{Router, extract::DefaultBodyLimit};
use ruma::api::client::{authenticated_media, media};

use crate::{App, route::Endpoints};

mod config;
mod create;
mod download;
mod error;
mod preview;
pub(crate) mod query;
pub(crate) mod serve;
#[cfg(test)]
mod tests;
mod thumbnail;
mod upload;
mod upload_to;

// The older paths are deprecated, and still asked for.
#[allow(deprecated)]
pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<media::create_content::v3::Request, _>(upload::upload)
        .endpoint::<media::create_mxc_uri::v1::Request, _>(create::create)
        .endpoint::<media::create_content_async::v3::Request, _>(upload_to::upload_to)
        .endpoint::<authenticated_media::get_media_config::v1::Request, _>(config::config)
        .endpoint::<media::get_media_config::v3::Request, _>(config::config)
        .endpoint::<authenticated_media::get_content::v1::Request, _>(download::download)
        .endpoint::<authenticated_media::get_content_as_filename::v1::Request, _>(download::download_as)
        .endpoint::<media::get_content::v3::Request, _>(download::download_openly)
        .endpoint::<media::get_content_as_filename::v3::Request, _>(download::download_openly_as)
        .endpoint::<authenticated_media::get_media_preview::v1::Request, _>(preview::preview)
        .endpoint::<media::get_media_preview::v3::Request, _>(preview::preview)
        .endpoint::<authenticated_media::get_content_thumbnail::v1::Request, _>(thumbnail::thumbnail)
        .endpoint::<media::get_content_thumbnail::v3::Request, _>(thumbnail::thumbnail_openly)
        // Uploads are limited while they are read, to the operator's limit.
        .layer(DefaultBodyLimit::disable())
}
