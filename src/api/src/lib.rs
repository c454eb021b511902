//! The HTTP surface: axum routers, extractors, and the translation between Matrix's JSON and the services' calls.
//!
//! An endpoint is one file, `client/<family>/<endpoint>.rs`: it takes the services it needs by `State`, the session by
//! [`extract::User`], the parsed request by [`extract::Ruma`]; it makes one call and converts the answer. Nothing here touches
//! the store, reads configuration files, or keeps a rule of Matrix. Start at [`router`].

use std::sync::Arc;

use axum::{Router, extract::FromRef, middleware};
use chappe_protocol::clock::Clock;
use chappe_rooms::Rooms;
use chappe_services::{
    account_data::AccountData,
    accounts::Accounts,
    app_services::client::AppServices,
    delayed_events::DelayedEvents,
    devices::Devices,
    emails::Emails,
    federation::{incoming::RequestVerifier, keys::ServerKeys, sender::Sender, transactions::Transactions},
    filters::Filters,
    profile::Profiles,
    reports::Reports,
    search::Search,
    server_notices::ServerNotices,
    uia::Uia,
    user_directory::UserDirectory,
};

use chappe_services::{
    key_backup::KeyBackup,
    keys::{DeviceLists, Keys},
    media::Media,
    presence::Presence,
    previews::Previews,
    push::{notifications::Notifications, pushers::Pushers, rules::PushRules},
    receipts::Receipts,
    to_device::ToDevice,
    turn::Turn,
    typing::Typing,
};

use crate::{client::discovery::DiscoveryConfig, extract::TrustedProxies, rate_limit::RateLimits};

pub mod client;
#[cfg(test)]
mod closed_federation_tests;
mod cost;
pub mod error;
#[cfg(test)]
mod every_endpoint;
pub mod extract;
pub mod federation;
mod layers;
pub mod media;
pub mod rate_limit;
pub mod route;
#[cfg(test)]
mod spec_table;
#[cfg(test)]
mod test_app;
#[cfg(test)]
mod test_state;

pub use error::ApiError;

/// The services that endpoints use, one field each. A handler extracts only those it needs: `State<Arc<Accounts>>`.
#[derive(Clone, FromRef)]
pub struct App {
    pub account_data: Arc<AccountData>,
    pub accounts: Arc<Accounts>,
    pub app_services: AppServices,
    pub clock: Arc<dyn Clock>,
    pub delayed_events: Arc<DelayedEvents>,
    pub device_lists: DeviceLists,
    pub devices: Arc<Devices>,
    pub directory: Arc<chappe_services::directory::Directory>,
    pub discovery: Arc<DiscoveryConfig>,
    pub emails: Arc<Emails>,
    pub filters: Arc<Filters>,
    pub key_backup: KeyBackup,
    pub keys: Keys,
    pub media: Media,
    pub notifications: Arc<Notifications>,
    pub presence: Arc<Presence>,
    pub previews: Previews,
    pub profiles: Arc<Profiles>,
    pub push_rules: Arc<PushRules>,
    pub pushers: Arc<Pushers>,
    pub rate_limits: Arc<RateLimits>,
    pub receipts: Arc<Receipts>,
    pub reports: Arc<Reports>,
    pub rooms: Rooms,
    pub search: Arc<Search>,
    pub sender: Arc<Sender>,
    pub server_keys: Arc<ServerKeys>,
    pub server_notices: Arc<ServerNotices>,
    pub spaces: Arc<chappe_services::spaces::Spaces>,
    pub sliding_sync: Arc<chappe_services::sliding_sync::SlidingSync>,
    pub sync: Arc<chappe_services::sync::SyncService>,
    pub thread_subscriptions: chappe_services::thread_subscriptions::ThreadSubscriptions,
    pub to_device: Arc<ToDevice>,
    pub transactions: Arc<Transactions>,
    pub trusted_proxies: Arc<TrustedProxies>,
    pub typing: Arc<Typing>,
    pub turn: Arc<Turn>,
    pub uia: Arc<Uia>,
    pub user_directory: Arc<UserDirectory>,
    pub verifier: Arc<RequestVerifier>,
}

/// Every endpoint of the server.
pub fn router(app: App) -> Router {
    let counted = endpoints().route_layer(middleware::from_fn_with_state(app.clone(), cost::count));
    layers::apply(counted).with_state(app)
}

fn endpoints() -> Router<App> {
    Router::new().merge(client::router()).merge(federation::router()).merge(media::router())
}
