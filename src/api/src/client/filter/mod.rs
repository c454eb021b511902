//! Endpoints of the family `filter`.

use axum::Router;

use crate::App;

pub fn router() -> Router<App> {
    Router::new()
}
