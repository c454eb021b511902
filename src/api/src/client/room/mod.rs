//! Rooms as wholes: creating them, and reading and writing their state.

use axum::Router;
use ruma::api::client::{room as ruma_room, space as ruma_space, state as ruma_state};

use crate::{App, route::Endpoints};

mod aliases;
mod create_room;
mod get_event;
mod get_state;
mod get_state_event;
mod hierarchy;
mod room_summary;
mod send_state;
pub(in crate::client) mod state_content;
mod timestamp_to_event;
mod upgrade_room;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_room::aliases::v3::Request, _>(aliases::handle)
        .endpoint::<ruma_room::create_room::v3::Request, _>(create_room::handle)
        .endpoint::<ruma_room::get_event_by_timestamp::v1::Request, _>(timestamp_to_event::handle)
        .endpoint::<ruma_room::get_room_event::v3::Request, _>(get_event::handle)
        .endpoint::<ruma_room::get_summary::v1::Request, _>(room_summary::handle)
        .endpoint::<ruma_room::upgrade_room::v3::Request, _>(upgrade_room::handle)
        .endpoint::<ruma_space::get_hierarchy::v1::Request, _>(hierarchy::handle)
        .endpoint::<ruma_state::get_state_event_for_key::v3::Request, _>(get_state_event::handle)
        .endpoint::<ruma_state::get_state_events::v3::Request, _>(get_state::handle)
        .endpoint::<ruma_state::send_state_event::v3::Request, _>(send_state::handle)
}

#[cfg(test)]
mod tests;
