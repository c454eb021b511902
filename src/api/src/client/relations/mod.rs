//! What relates to an event, and the threads of a room.

use axum::Router;
use http::Method;
use ruma::api::client::{
    relations::{
        get_relating_events, get_relating_events_with_rel_type, get_relating_events_with_rel_type_and_event_type,
    },
    threads::get_threads,
};

use crate::{App, route::Endpoints};

mod event_relationships;
mod get_relations;
mod list_threads;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<get_relating_events::v1::Request, _>(get_relations::handle)
        .endpoint::<get_relating_events_with_rel_type::v1::Request, _>(get_relations::handle_with_rel_type)
        .endpoint::<get_relating_events_with_rel_type_and_event_type::v1::Request, _>(
            get_relations::handle_with_rel_type_and_event_type,
        )
        .at(Method::POST, "/_matrix/client/unstable/event_relationships", event_relationships::handle)
        .endpoint::<get_threads::v1::Request, _>(list_threads::handle)
}

#[cfg(test)]
mod tests;
