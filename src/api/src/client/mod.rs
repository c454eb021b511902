//! The client-server API: one folder for each family of endpoints, one file for each endpoint.

use axum::{Router, extract::DefaultBodyLimit};

use crate::App;

pub mod account;
pub mod account_data;
pub mod admin;
pub mod app_service;
pub mod dehydrated_device;
pub mod delayed_event;
pub mod device;
pub mod directory;
pub mod discovery;
pub mod filter;
pub mod key_backup;
pub mod keys;
mod mail_page;
pub mod membership;
pub mod message;
pub mod presence;
pub mod profile;
pub mod push;
pub mod receipt;
pub mod relations;
pub mod report;
pub mod room;
pub mod search;
pub mod session;
pub mod sync;
pub mod tag;
pub mod thread_subscription;
pub mod threepid;
pub mod to_device;
pub mod typing;
pub mod voip;

/// Largest body of a client request, in bytes. An event is at most 64 KiB; uploads to a key backup come in the largest bodies,
/// a few hundred sessions at a time.
const BODY_BYTES_MAX: usize = 4 << 20;

pub fn router() -> Router<App> {
    Router::new()
        .merge(account::router())
        .merge(account_data::router())
        .merge(admin::router())
        .merge(app_service::router())
        .merge(dehydrated_device::router())
        .merge(delayed_event::router())
        .merge(device::router())
        .merge(directory::router())
        .merge(discovery::router())
        .merge(filter::router())
        .merge(key_backup::router())
        .merge(keys::router())
        .merge(membership::router())
        .merge(message::router())
        .merge(presence::router())
        .merge(profile::router())
        .merge(push::router())
        .merge(receipt::router())
        .merge(relations::router())
        .merge(report::router())
        .merge(room::router())
        .merge(search::router())
        .merge(session::router())
        .merge(sync::router())
        .merge(tag::router())
        .merge(thread_subscription::router())
        .merge(threepid::router())
        .merge(to_device::router())
        .merge(typing::router())
        .merge(voip::router())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}
