//! Endpoints of the family `account`.

use axum::Router;

use crate::App;

pub fn router() -> Router<App> {
    Router::new()
}
