//! The server-server API: one file for each endpoint, or for a few that are one endpoint in several forms.

use axum::{Router, extract::DefaultBodyLimit};
use http::Method;
use ruma::api::federation::{
    authenticated_media::{get_content, get_content_thumbnail},
    authorization::get_event_authorization,
    backfill::get_backfill,
    device::get_devices,
    directory::{get_public_rooms, get_public_rooms_filtered},
    discovery::{get_remote_server_keys, get_remote_server_keys_batch},
    event::{get_event, get_event_by_timestamp, get_missing_events, get_room_state, get_room_state_ids},
    keys::{claim_keys, get_keys},
    membership::{
        create_join_event, create_knock_event, create_leave_event, prepare_join_event, prepare_knock_event,
        prepare_leave_event,
    },
    openid::get_openid_userinfo,
    query::{get_custom_information, get_profile_information, get_room_information},
    space::get_hierarchy,
    thirdparty::{bind_callback, exchange_invite},
    transactions::send_transaction_message,
};

use crate::{App, route::Endpoints};

pub mod event_relationships;
pub mod events;
pub mod exchange_third_party_invite;
pub mod hierarchy;
pub mod invite;
pub mod keys;
pub mod make_membership;
pub mod media_download;
pub mod media_thumbnail;
pub mod openid;
pub mod public_rooms;
pub mod query;
#[cfg(test)]
mod query_tests;
pub mod send;
pub mod send_join;
pub mod send_knock;
pub mod send_leave;
pub mod third_party_bound;
pub mod timestamp_to_event;
mod told;
pub mod user_devices;
pub mod user_keys_claim;
pub mod user_keys_query;
pub mod version;

/// Largest body of a federation request, in bytes: a transaction holds up to 50 PDUs of 64 KiB and 100 EDUs, and the state in
/// the answer to an invite or knock can be larger than that.
const BODY_BYTES_MAX: usize = 16 << 20;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<send_transaction_message::v1::Request, _>(send::send)
        .endpoint::<prepare_join_event::v1::Request, _>(make_membership::make_join)
        .endpoint::<prepare_leave_event::v1::Request, _>(make_membership::make_leave)
        .endpoint::<prepare_knock_event::v1::Request, _>(make_membership::make_knock)
        .endpoint::<create_join_event::v2::Request, _>(send_join::send_join)
        .at(Method::PUT, "/_matrix/federation/v1/send_join/{room_id}/{event_id}", send_join::send_join_v1)
        .endpoint::<create_leave_event::v2::Request, _>(send_leave::send_leave)
        .at(Method::PUT, "/_matrix/federation/v1/send_leave/{room_id}/{event_id}", send_leave::send_leave_v1)
        .endpoint::<create_knock_event::v1::Request, _>(send_knock::send_knock)
        .at(Method::PUT, "/_matrix/federation/v2/invite/{room_id}/{event_id}", invite::invite)
        .at(Method::PUT, "/_matrix/federation/v1/invite/{room_id}/{event_id}", invite::invite_v1)
        .endpoint::<exchange_invite::v1::Request, _>(exchange_third_party_invite::exchange_third_party_invite)
        .endpoint::<bind_callback::v1::Request, _>(third_party_bound::third_party_bound)
        .endpoint::<get_content::v1::Request, _>(media_download::media_download)
        .endpoint::<get_content_thumbnail::v1::Request, _>(media_thumbnail::media_thumbnail)
        .endpoint::<get_event::v1::Request, _>(events::event)
        .endpoint::<get_event_by_timestamp::v1::Request, _>(timestamp_to_event::timestamp_to_event)
        .endpoint::<get_event_authorization::v1::Request, _>(events::event_auth)
        .endpoint::<get_room_state::v1::Request, _>(events::state)
        .endpoint::<get_room_state_ids::v1::Request, _>(events::state_ids)
        .endpoint::<get_backfill::v1::Request, _>(events::backfill)
        .endpoint::<get_missing_events::v1::Request, _>(events::missing_events)
        .at(Method::POST, "/_matrix/federation/unstable/event_relationships", event_relationships::event_relationships)
        .endpoint::<get_profile_information::v1::Request, _>(query::profile)
        .endpoint::<get_room_information::v1::Request, _>(query::directory)
        .endpoint::<get_custom_information::v1::Request, _>(query::unknown)
        .endpoint::<get_devices::v1::Request, _>(user_devices::user_devices)
        .endpoint::<get_keys::v1::Request, _>(user_keys_query::query)
        .endpoint::<claim_keys::v1::Request, _>(user_keys_claim::claim)
        .endpoint::<get_public_rooms::v1::Request, _>(public_rooms::get)
        .endpoint::<get_public_rooms_filtered::v1::Request, _>(public_rooms::post)
        .endpoint::<get_hierarchy::v1::Request, _>(hierarchy::hierarchy)
        .endpoint::<get_openid_userinfo::v1::Request, _>(openid::userinfo)
        .at(Method::GET, "/_matrix/key/v2/server", keys::server)
        .endpoint::<get_remote_server_keys::v2::Request, _>(keys::query)
        .endpoint::<get_remote_server_keys_batch::v2::Request, _>(keys::query_batch)
        .at(Method::GET, "/_matrix/federation/v1/version", version::version)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

#[cfg(test)]
mod tests;
