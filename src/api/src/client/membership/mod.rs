//! Who is in a room: joining, leaving, and what members do to each other.

use axum::Router;
use ruma::api::client::{knock::knock_room, membership as ruma_membership};

use crate::{App, route::Endpoints};

mod ban;
mod forget;
mod invite;
mod join;
pub(crate) mod join_by_id_or_alias;
mod joined_members;
mod joined_rooms;
mod kick;
mod knock;
mod leave;
mod members;
mod mutual_rooms;
pub(crate) mod target;
mod unban;
pub(crate) mod via;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_membership::ban_user::v3::Request, _>(ban::handle)
        .endpoint::<ruma_membership::forget_room::v3::Request, _>(forget::handle)
        .endpoint::<ruma_membership::get_member_events::v3::Request, _>(members::handle)
        .endpoint::<ruma_membership::get_mutual_rooms::unstable::Request, _>(mutual_rooms::handle)
        .endpoint::<ruma_membership::get_mutual_rooms::v1::Request, _>(mutual_rooms::handle)
        .endpoint::<ruma_membership::invite_user::v3::Request, _>(invite::handle)
        .endpoint::<ruma_membership::join_room_by_id::v3::Request, _>(join::handle)
        .endpoint::<ruma_membership::join_room_by_id_or_alias::v3::Request, _>(join_by_id_or_alias::handle)
        .endpoint::<ruma_membership::joined_members::v3::Request, _>(joined_members::handle)
        .endpoint::<ruma_membership::joined_rooms::v3::Request, _>(joined_rooms::handle)
        .endpoint::<ruma_membership::kick_user::v3::Request, _>(kick::handle)
        .endpoint::<knock_room::v3::Request, _>(knock::handle)
        .endpoint::<ruma_membership::leave_room::v3::Request, _>(leave::handle)
        .endpoint::<ruma_membership::unban_user::v3::Request, _>(unban::handle)
}

#[cfg(test)]
mod tests;
