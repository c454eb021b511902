//! Endpoints of the family `keys`.

use axum::Router;

use crate::App;

pub fn router() -> Router<App> {
    Router::new()
}
