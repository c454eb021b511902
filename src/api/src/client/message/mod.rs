//! Events of a room's timeline: sending and redacting them, and paging through them.

use axum::Router;
use ruma::api::client::{context::get_context, message as ruma_message, redact::redact_event};

use crate::{App, route::Endpoints};

mod context;
mod messages;
mod redact;
pub(in crate::client) mod send;
pub(crate) mod shown;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<get_context::v3::Request, _>(context::handle)
        .endpoint::<ruma_message::get_message_events::v3::Request, _>(messages::handle)
        .endpoint::<redact_event::v3::Request, _>(redact::handle)
        .endpoint::<ruma_message::send_message_event::v3::Request, _>(send::handle)
}

#[cfg(test)]
mod tests;
