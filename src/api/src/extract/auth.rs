//! Who asks: the session behind the request's access token.
//!
//! An endpoint that takes [`User`] refuses guests; one that takes [`Authenticated`] lets them in; one that takes
//! [`OptionalUser`] answers without a token too, but never with a bad one. [`Active`] around the first two refuses who is suspended;
//! [`EvenIfLocked`] lets in who is locked.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use chappe_services::{
    accounts::{Accounts, AssertIdentityError, Session},
    app_services::Registration,
    devices::Devices,
};
use http::request::Parts;
use ruma::api::auth_scheme::extract_bearer_or_query_token;

use super::{ClientAddress, TrustedProxies};
use crate::error::ApiError;

/// The session of a full account; a guest is refused with M_GUEST_ACCESS_FORBIDDEN.
pub struct User(pub Session);

/// The session of any account, guests included.
pub struct Authenticated(pub Session);

/// The session, if a token was sent.
pub struct OptionalUser(pub Option<Session>);

/// Request extension: the session, where a layer before the handler has found it out already.
#[derive(Clone)]
pub struct Recognised(pub Session);

impl<S> FromRequestParts<S> for OptionalUser
where
    Arc<Accounts>: FromRef<S>,
    Arc<Devices>: FromRef<S>,
    Arc<TrustedProxies>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        if let Some(Recognised(session)) = parts.extensions.get() {
            return Ok(Self(Some(session.clone())));
        }
        let Some(token) = access_token(parts)? else { return Ok(Self(None)) };
        let accounts = Arc::<Accounts>::from_ref(state);
        let session = session_of(parts, &accounts, &token, Accounts::authenticate)?;
        let Ok(ClientAddress(address)) = ClientAddress::from_request_parts(parts, state).await;
        Arc::<Devices>::from_ref(state).note_seen(&session, address)?;
        tracing::Span::current().record("user.id", session.user_id.as_str());
        Ok(Self(Some(session)))
    }
}

impl<S> FromRequestParts<S> for Authenticated
where
    Arc<Accounts>: FromRef<S>,
    Arc<Devices>: FromRef<S>,
    Arc<TrustedProxies>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let OptionalUser(session) = OptionalUser::from_request_parts(parts, state).await?;
        session.map(Self).ok_or_else(ApiError::missing_token)
    }
}

impl<S> FromRequestParts<S> for User
where
    Arc<Accounts>: FromRef<S>,
    Arc<Devices>: FromRef<S>,
    Arc<TrustedProxies>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Authenticated(session) = Authenticated::from_request_parts(parts, state).await?;
        if session.is_guest { Err(ApiError::guest_forbidden()) } else { Ok(Self(session)) }
    }
}

/// The session of any account, locked ones included: to log out.
pub struct EvenIfLocked(pub Session);

impl<S> FromRequestParts<S> for EvenIfLocked
where
    Arc<Accounts>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let token = access_token(parts)?.ok_or_else(ApiError::missing_token)?;
        let accounts = Arc::<Accounts>::from_ref(state);
        Ok(Self(session_of(parts, &accounts, &token, Accounts::authenticate_even_if_locked)?))
    }
}

/// The session of an administrator of this server.
pub struct Admin(pub Session);

impl<S> FromRequestParts<S> for Admin
where
    Arc<Accounts>: FromRef<S>,
    Arc<Devices>: FromRef<S>,
    Arc<TrustedProxies>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let User(session) = User::from_request_parts(parts, state).await?;
        if session.is_admin {
            Ok(Self(session))
        } else {
            Err(ApiError::forbidden("Only administrators of this server may do this"))
        }
    }
}

/// What an extractor has found out about who asks.
pub trait HasSession {
    fn session(&self) -> &Session;
}

impl HasSession for Authenticated {
    fn session(&self) -> &Session {
        &self.0
    }
}

impl HasSession for User {
    fn session(&self) -> &Session {
        &self.0
    }
}

/// As `A`, but refuses suspended accounts with M_USER_SUSPENDED: for what acts on others.
pub struct Active<A>(pub A);

impl<A, S> FromRequestParts<S> for Active<A>
where
    A: FromRequestParts<S, Rejection = ApiError> + HasSession,
    Arc<Accounts>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let inner = A::from_request_parts(parts, state).await?;
        if Arc::<Accounts>::from_ref(state).is_suspended(&inner.session().user_id)? {
            return Err(ApiError::user_suspended());
        }
        Ok(Self(inner))
    }
}

/// The application service whose `as_token` was sent, whomever it acts for.
pub struct AppService(pub Arc<Registration>);

impl<S> FromRequestParts<S> for AppService
where
    Arc<Accounts>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let token = access_token(parts)?.ok_or_else(ApiError::missing_token)?;
        let accounts = Arc::<Accounts>::from_ref(state);
        if let Some(service) = accounts.app_services().get_by_token(&token) {
            return Ok(Self(service.clone()));
        }
        // A user's token is one that is known, and not enough.
        accounts.authenticate(&token)?;
        Err(ApiError::forbidden("Only application services may do this"))
    }
}

/// Whom an application service acts for: the parameters `user_id` and `device_id` of the query (application service API, "Identity
/// assertion").
#[derive(Default)]
struct Asserted {
    user_id: Option<String>,
    device_id: Option<String>,
}

impl Asserted {
    fn read(parts: &Parts) -> Self {
        let mut asserted = Self::default();
        for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            match &*name {
                "user_id" => asserted.user_id = Some(value.into_owned()),
                // The names from before the specification had it are still used.
                "device_id" | "org.matrix.msc4326.device_id" | "org.matrix.msc3202.device_id" => {
                    asserted.device_id = Some(value.into_owned());
                }
                _ => {}
            }
        }
        asserted
    }

    fn session(&self, accounts: &Accounts, service: &Arc<Registration>) -> Result<Session, AssertIdentityError> {
        accounts.authenticate_as(service, self.user_id.as_deref(), self.device_id.as_deref())
    }
}

/// The session behind a token: of whom an application service acts for, or of an account as `authenticate` judges it.
fn session_of<E>(
    parts: &Parts,
    accounts: &Accounts,
    token: &str,
    authenticate: impl FnOnce(&Accounts, &str) -> Result<Session, E>,
) -> Result<Session, ApiError>
where
    ApiError: From<E>,
{
    match accounts.app_services().get_by_token(token) {
        Some(service) => Ok(Asserted::read(parts).session(accounts, service)?),
        None => Ok(authenticate(accounts, token)?),
    }
}

/// The token of the `Authorization: Bearer` header, or of the query parameter `access_token`.
fn access_token(parts: &Parts) -> Result<Option<String>, ApiError> {
    let mut request = http::Request::builder().uri(parts.uri.clone());
    if let Some(authorization) = parts.headers.get(http::header::AUTHORIZATION) {
        request = request.header(http::header::AUTHORIZATION, authorization);
    }
    let request = request.body(()).map_err(ApiError::internal)?;
    // What is in the header but is no bearer token is as good as none.
    let token = extract_bearer_or_query_token(&request).map_err(|_| ApiError::missing_token())?;
    Ok(token.filter(|token| !token.is_empty()))
}
