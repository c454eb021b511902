//! [`StepUp`]: a user who is to prove once more who they are, before something that a stolen access token must not do.

use std::{net::IpAddr, sync::Arc};

use axum::extract::{FromRef, FromRequestParts};
use chappe_services::{
    accounts::{Accounts, Session},
    devices::Devices,
    uia::Uia,
};
use http::request::Parts;
use ruma::api::client::uiaa::AuthData;

use super::{ClientAddress, TrustedProxies, User};
use crate::{
    error::ApiError,
    rate_limit::{Limit, RateLimits},
};

/// The session of a full account, and what it takes to have its user authenticate again (client-server API, "User-Interactive Authentication
/// API").
pub struct StepUp {
    session: Session,
    address: Option<IpAddr>,
    uia: Arc<Uia>,
    limits: Arc<RateLimits>,
}

impl StepUp {
    /// For those who find out otherwise who asks.
    pub fn new(session: Session, address: Option<IpAddr>, uia: Arc<Uia>, limits: Arc<RateLimits>) -> Self {
        Self { session, address, uia, limits }
    }

    /// The session, of which nothing is proven yet but its token.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Lets the user go on who proves who they are; attempts are counted.
    ///
    /// `operation` says what is to be done and to what, such as `delete device ABC`: an authentication begun for one operation does not
    /// serve another.
    pub async fn authorize(self, operation: &str, auth: Option<&AuthData>) -> Result<Session, ApiError> {
        if auth.is_some() {
            self.limits.check_session(Limit::Authentication, &self.session)?;
        }
        self.uia.authorize_user(&self.session, operation, auth, self.address).await?;
        Ok(self.session)
    }
}

impl<S> FromRequestParts<S> for StepUp
where
    Arc<Accounts>: FromRef<S>,
    Arc<Devices>: FromRef<S>,
    Arc<RateLimits>: FromRef<S>,
    Arc<TrustedProxies>: FromRef<S>,
    Arc<Uia>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let User(session) = User::from_request_parts(parts, state).await?;
        let Ok(ClientAddress(address)) = ClientAddress::from_request_parts(parts, state).await;
        Ok(Self::new(session, address, FromRef::from_ref(state), FromRef::from_ref(state)))
    }
}
