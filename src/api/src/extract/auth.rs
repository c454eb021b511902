//! Who asks: the session behind the request's access token.
//!
//! An endpoint that takes [`User`] refuses guests; one that takes [`Authenticated`] lets them in; one that takes
//! [`OptionalUser`] answers without a token too, but never with a bad one.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use chappe_services::{
    accounts::{Accounts, Session},
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
        let session = Arc::<Accounts>::from_ref(state).authenticate(&token)?;
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
