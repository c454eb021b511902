//! The content repository: uploads, downloads and thumbnails, for clients and over federation.

use axum::Router;

use crate::App;

pub fn router() -> Router<App> {
    Router::new()
}
