//! Endpoints of the family `account_data`.

use axum::Router;

use crate::App;

pub fn router() -> Router<App> {
    Router::new()
}
