//! The HTTP surface: axum routers, extractors, and the translation between Matrix's JSON and the services' calls.
//!
//! An endpoint is one file, `client/<family>/<endpoint>.rs`: it takes the services it needs by `State`, the session by
//! [`extract::User`], the parsed request by [`extract::Ruma`]; it makes one call and converts the answer. Nothing here touches
//! the store, reads configuration files, or keeps a rule of Matrix. Start at [`router`].

use std::{ops::Deref, sync::Arc};

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
#[path = "../../services/src/test_accounts.rs"]
mod test_accounts;
#[cfg(test)]
mod test_app;
#[cfg(test)]
#[path = "../../services/src/mail/test_smtp.rs"]
mod test_smtp;
#[cfg(test)]
mod test_state;

pub use error::ApiError;

/// Declares the services, and how a handler extracts each by its type: `State<Arc<Accounts>>`.
macro_rules! services {
    ($($name:ident: $type:ty,)*) => {
        /// The services that endpoints use, one field each.
        pub struct Services {
            $(pub $name: $type,)*
        }

        $(impl FromRef<App> for $type {
            fn from_ref(app: &App) -> Self {
                app.$name.clone()
            }
        })*
    };
}

services! {
    account_data: Arc<AccountData>,
    accounts: Arc<Accounts>,
    app_services: AppServices,
    clock: Arc<dyn Clock>,
    delayed_events: Arc<DelayedEvents>,
    device_lists: DeviceLists,
    devices: Arc<Devices>,
    directory: Arc<chappe_services::directory::Directory>,
    discovery: Arc<DiscoveryConfig>,
    emails: Arc<Emails>,
    filters: Arc<Filters>,
    key_backup: KeyBackup,
    keys: Keys,
    media: Media,
    notifications: Arc<Notifications>,
    presence: Arc<Presence>,
    previews: Previews,
    profiles: Arc<Profiles>,
    push_rules: Arc<PushRules>,
    pushers: Arc<Pushers>,
    rate_limits: Arc<RateLimits>,
    receipts: Arc<Receipts>,
    reports: Arc<Reports>,
    rooms: Rooms,
    search: Arc<Search>,
    sender: Arc<Sender>,
    server_keys: Arc<ServerKeys>,
    server_notices: Arc<ServerNotices>,
    spaces: Arc<chappe_services::spaces::Spaces>,
    sliding_sync: Arc<chappe_services::sliding_sync::SlidingSync>,
    sync: Arc<chappe_services::sync::SyncService>,
    thread_subscriptions: chappe_services::thread_subscriptions::ThreadSubscriptions,
    to_device: Arc<ToDevice>,
    transactions: Arc<Transactions>,
    trusted_proxies: Arc<TrustedProxies>,
    typing: Arc<Typing>,
    turn: Arc<Turn>,
    uia: Arc<Uia>,
    user_directory: Arc<UserDirectory>,
    verifier: Arc<RequestVerifier>,
}

/// All services. Cheap to clone: every request does.
#[derive(Clone)]
pub struct App(Arc<Services>);

impl App {
    pub fn new(services: Services) -> Self {
        Self(Arc::new(services))
    }
}

impl Deref for App {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

/// Every endpoint of the server.
pub fn router(app: App) -> Router {
    let counted = endpoints().route_layer(middleware::from_fn_with_state(app.clone(), cost::count));
    layers::apply(counted).with_state(app)
}

fn endpoints() -> Router<App> {
    Router::new().merge(client::router()).merge(federation::router()).merge(media::router())
}
