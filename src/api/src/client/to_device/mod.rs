//! Endpoints of the family `to_device`.

use axum::Router;

use crate::App;

pub fn router() -> Router<App> {
    Router::new()
}
