//! Endpoints of the family `profile`.

use axum::Router;

use crate::App;

pub fn router() -> Router<App> {
    Router::new()
}
