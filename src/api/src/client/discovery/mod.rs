//! What clients and servers ask before anything else: where the server is, and what it can do.

use axum::Router;
use http::Method;
use ruma::{RoomVersionId, api::client::discovery as ruma_discovery};

use crate::{App, route::Endpoints};

mod capabilities;
#[cfg(test)]
mod tests;
mod versions;
mod well_known_client;
mod well_known_server;
mod well_known_support;

pub use well_known_support::SupportContact;

/// What the operator says about the server, and what it is built to do.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// Base URL of the client-server API, as clients reach it. `None`: no client well-known.
    pub client_base_url: Option<String>,
    /// Host and port that other servers are to use in place of the server name. `None`: no server well-known.
    pub federation_host: Option<String>,
    /// Whom to turn to; empty and without a page: no support well-known.
    pub support_contacts: Vec<SupportContact>,
    pub support_page: Option<String>,
    /// The version of rooms whose creator names none.
    pub room_version_default: RoomVersionId,
    /// The versions that rooms can be created with, and whether each is stable.
    pub room_versions: Vec<(RoomVersionId, Stability)>,
}

/// Whether a room version is fit for everybody's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    Stable,
    Unstable,
}

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_discovery::get_capabilities::v3::Request, _>(capabilities::handle)
        .endpoint::<ruma_discovery::get_supported_versions::Request, _>(versions::handle)
        .endpoint::<ruma_discovery::discover_homeserver::Request, _>(well_known_client::handle)
        .endpoint::<ruma_discovery::discover_support::Request, _>(well_known_support::handle)
        .at(Method::GET, "/.well-known/matrix/server", well_known_server::handle)
}
