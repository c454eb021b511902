//! Presence.

use axum::Router;
use ruma::api::client::presence as ruma_presence;

use crate::{App, route::Endpoints};

mod get_presence;
mod set_presence;
#[cfg(test)]
mod tests;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_presence::get_presence::v3::Request, _>(get_presence::handle)
        .endpoint::<ruma_presence::set_presence::v3::Request, _>(set_presence::handle)
}
