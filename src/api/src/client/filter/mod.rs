//! Stored filters.

use axum::Router;
use ruma::api::client::filter as ruma_filter;

use crate::{App, route::Endpoints};

mod create_filter;
mod get_filter;
#[cfg(test)]
mod tests;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_filter::create_filter::v3::Request, _>(create_filter::handle)
        .endpoint::<ruma_filter::get_filter::v3::Request, _>(get_filter::handle)
}
