//! [`Signed`] and [`SignedJson`]: a request of another server, its signature checked.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequest, Request};
use bytes::Bytes;
use chappe_services::federation::{
    incoming::{RequestRejection, RequestVerifier},
    sender::Sender,
};
use http::{StatusCode, header, request::Parts};
use ruma::{
    OwnedServerName, ServerName,
    api::{IncomingRequest, IncomingRequestExt, error::ErrorCode},
};
use serde::de::DeserializeOwned;

use super::request::{body_error, json_error, path_arguments, request_error};
use crate::error::ApiError;

/// Request extension: the certificate that the peer of a connection has shown, once verified. Says whether it is that of a server.
#[derive(Clone)]
pub struct PeerCertificate(pub Arc<dyn Fn(&ServerName) -> bool + Send + Sync>);

/// A federation request of ruma's type `T`, and the server that is proven to have made it.
pub struct Signed<T> {
    pub origin: OwnedServerName,
    pub body: T,
}

impl<T, S> FromRequest<S> for Signed<T>
where
    T: IncomingRequest,
    Arc<RequestVerifier>: FromRef<S>,
    Arc<Sender>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let path_arguments = path_arguments::<T, S>(&mut parts, state).await?;
        let path_arguments: Vec<&str> = path_arguments.iter().map(String::as_str).collect();
        let body = Bytes::from_request(Request::from_parts(parts.clone(), body), state).await.map_err(body_error)?;
        let origin = verify(&parts, &body, state).await?;
        let request = http::Request::from_parts(parts, &*body);
        let body = T::try_from_http_request(request, &path_arguments).map_err(|error| request_error(error, &body))?;
        Ok(Self { origin, body })
    }
}

/// A federation request that ruma has no type for: its JSON body, and the server that is proven to have made it.
pub struct SignedJson<T> {
    pub origin: OwnedServerName,
    pub body: T,
}

impl<T, S> FromRequest<S> for SignedJson<T>
where
    T: DeserializeOwned,
    Arc<RequestVerifier>: FromRef<S>,
    Arc<Sender>: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let body = Bytes::from_request(Request::from_parts(parts.clone(), body), state).await.map_err(body_error)?;
        let origin = verify(&parts, &body, state).await?;
        let body = serde_json::from_slice(&body).map_err(|error| json_error(&error, &body))?;
        Ok(Self { origin, body })
    }
}

/// Who has signed a request.
async fn verify<S>(parts: &Parts, body: &Bytes, state: &S) -> Result<OwnedServerName, ApiError>
where
    Arc<RequestVerifier>: FromRef<S>,
    Arc<Sender>: FromRef<S>,
{
    let content: Option<serde_json::Value> = match body.is_empty() {
        true => None,
        false => Some(serde_json::from_slice(body).map_err(|error| json_error(&error, body))?),
    };
    let authorization: Vec<&str> =
        parts.headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| value.to_str().ok()).collect();
    let uri = parts.uri.path_and_query().map_or("/", |uri| uri.as_str());
    let verifier = Arc::<RequestVerifier>::from_ref(state);
    let origin = verifier.verify(authorization, &parts.method, uri, content.as_ref()).await?;
    if let Some(PeerCertificate(is_of)) = parts.extensions.get()
        && !is_of(&origin)
    {
        return Err(RequestRejection::Certificate(origin).into());
    }
    tracing::Span::current().record("origin", origin.as_str());
    Arc::<Sender>::from_ref(state).poke(&origin);
    Ok(origin)
}

impl From<RequestRejection> for ApiError {
    fn from(rejection: RequestRejection) -> Self {
        match rejection {
            RequestRejection::Policy(rejection) => Self::forbidden(rejection.to_string()),
            RequestRejection::Store(error) => error.into(),
            other => Self::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, other.to_string()),
        }
    }
}
