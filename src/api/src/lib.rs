//! The HTTP surface: axum routers, extractors, and the translation between Matrix's JSON and the services' calls.
//!
//! An endpoint is one file, `client/<family>/<endpoint>.rs`: it takes the services it needs by `State`, the session by
//! [`extract::User`], the parsed request by [`extract::Ruma`]; it makes one call and converts the answer. Nothing here touches
//! the store, reads configuration files, or keeps a rule of Matrix. Start at [`router`].

use std::sync::Arc;

use axum::{Router, extract::FromRef};
use chappe_services::accounts::Accounts;

use crate::{extract::TrustedProxies, rate_limit::RateLimits};

pub mod client;
pub mod error;
pub mod extract;
pub mod federation;
mod layers;
pub mod media;
pub mod rate_limit;
pub mod route;

pub use error::ApiError;

/// The services that endpoints use, one field each. A handler extracts only those it needs: `State<Arc<Accounts>>`.
#[derive(Clone, FromRef)]
pub struct App {
    pub accounts: Arc<Accounts>,
    pub rate_limits: Arc<RateLimits>,
    pub trusted_proxies: Arc<TrustedProxies>,
}

/// Every endpoint of the server.
pub fn router(app: App) -> Router {
    let router = Router::new().merge(client::router()).merge(federation::router()).merge(media::router());
    layers::apply(router).with_state(app)
}
