//! Typing notifications.

use axum::Router;
use ruma::api::client::typing::create_typing_event;

use crate::{App, route::Endpoints};

mod set_typing;
#[cfg(test)]
mod tests;

pub fn router() -> Router<App> {
    Router::new().endpoint::<create_typing_event::v3::Request, _>(set_typing::handle)
}
