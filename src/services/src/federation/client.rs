//! Signed requests to other servers.
//!
//! [`FederationClient::request`] asks the policy, finds the server, signs, sends and reads the answer within limits; the typed
//! methods in the files beside this one name the endpoint and the fields. Events stay raw JSON: nothing here believes them.

mod events;
mod media;
mod membership;
mod queries;
mod splitter;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chappe_protocol::{json::canonical_lenient, sign::ServerSigner};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ruma::{
    OwnedServerName, ServerName,
    api::{IncomingResponse, IncomingResponseExt},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use url::{Url, form_urlencoded};

use super::{
    destinations::Destinations,
    resolver::{ResolveError, Resolver},
    xmatrix::SignedRequest,
};
use crate::{
    connector::{CappedResponse, ConnectError, Connector, Request, Response},
    policy::{FederationPolicy, PolicyRejection},
};

/// Largest ordinary answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest answer that holds a room's state, in bytes.
pub const STATE_ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long an ordinary request may take.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request may take for which the other server must work hard.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a request to another server has no useful answer.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    #[error(transparent)]
    Policy(#[from] PolicyRejection),
    /// The request would have gone to this server itself.
    #[error("a server does not federate with itself")]
    OwnServer,
    /// The server failed recently: background traffic waits.
    #[error("{server} failed recently and is not asked before {retry_at_ms}")]
    Backoff { server: OwnedServerName, retry_at_ms: u64 },
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("timed out")]
    Timeout,
    /// The server answered with an error.
    #[error("status {status} {}: {error}", errcode.as_deref().unwrap_or("without errcode"))]
    Status { status: u16, errcode: Option<String>, error: String },
    #[error("malformed answer: {0}")]
    Malformed(String),
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
}

impl From<ConnectError> for FederationError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Timeout => Self::Timeout,
            ConnectError::TooLarge { limit } => Self::TooLarge { limit },
            other => Self::Connect(other.to_string()),
        }
    }
}

impl FederationError {
    /// Whether the server does not know the endpoint: an older one is worth a try.
    pub fn is_unrecognized(&self) -> bool {
        match self {
            Self::Status { status: 404 | 405 | 501, errcode, .. } => {
                errcode.as_deref().is_none_or(|errcode| errcode == "M_UNRECOGNIZED")
            }
            Self::Status { errcode: Some(errcode), .. } => errcode == "M_UNRECOGNIZED",
            _ => false,
        }
    }

    /// Whether the failure says that the server as a whole is down, rather than that it did not like the request.
    fn is_outage(&self) -> bool {
        match self {
            Self::Resolve(_) | Self::Connect(_) | Self::Timeout => true,
            Self::Status { status, .. } => matches!(status, 429 | 502..=504),
            _ => false,
        }
    }
}

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A user does: the server is asked even if it failed a moment ago.
    User,
    /// Nobody: a server that failed recently is left alone.
    Background,
}

/// A request before it is signed.
#[derive(Clone, Debug)]
pub struct FederationRequest {
    pub method: Method,
    /// Encoded path and query, beginning with a slash.
    pub path: String,
    pub body: Option<Value>,
    pub timeout: Duration,
    /// Largest answer that is read, in bytes.
    pub answer_bytes_max: usize,
    pub urgency: Urgency,
}

impl FederationRequest {
    pub fn new(method: Method, path: String) -> Self {
        Self { method, path, body: None, timeout: TIMEOUT, answer_bytes_max: ANSWER_BYTES_MAX, urgency: Urgency::User }
    }

    pub fn get(path: String) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn with_body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    /// For answers that hold a room's state.
    pub fn for_state(self) -> Self {
        Self { timeout: LONG_TIMEOUT, answer_bytes_max: STATE_ANSWER_BYTES_MAX, ..self }
    }

    pub fn in_background(self) -> Self {
        Self { urgency: Urgency::Background, ..self }
    }
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct FederationClient {
    connector: Connector,
    resolver: Resolver,
    signer: Arc<ServerSigner>,
    policy: Arc<FederationPolicy>,
    destinations: Destinations,
}

impl FederationClient {
    pub fn new(
        connector: Connector,
        resolver: Resolver,
        signer: Arc<ServerSigner>,
        policy: Arc<FederationPolicy>,
        destinations: Destinations,
    ) -> Self {
        Self { connector, resolver, signer, policy, destinations }
    }

    pub fn own_name(&self) -> &ServerName {
        self.signer.server_name()
    }

    pub fn policy(&self) -> &FederationPolicy {
        &self.policy
    }

    pub fn destinations(&self) -> &Destinations {
        &self.destinations
    }

    /// Sends a signed request and reads a JSON answer.
    pub async fn request<R: DeserializeOwned>(
        &self,
        destination: &ServerName,
        request: FederationRequest,
    ) -> Result<R, FederationError> {
        parse_json(&self.request_bytes(destination, request).await?.body)
    }

    /// Sends a signed request and reads the answer as one of ruma's response types.
    pub async fn request_typed<R: IncomingResponse>(
        &self,
        destination: &ServerName,
        request: FederationRequest,
    ) -> Result<R, FederationError> {
        let answer = self.request_bytes(destination, request).await?;
        let mut response = http::Response::new(answer.body.as_ref());
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        R::try_from_http_response(response).map_err(|error| FederationError::Malformed(error.to_string()))
    }

    /// Sends a signed request and reads the answer's bytes.
    pub async fn request_bytes(
        &self,
        destination: &ServerName,
        request: FederationRequest,
    ) -> Result<CappedResponse, FederationError> {
        let limit = request.answer_bytes_max;
        let exchange = async { read_answer(self.send(destination, &request, Signing::Signed).await?, limit).await };
        self.watched(destination, exchange).await
    }

    /// Sends a request without a signature and reads a JSON answer: for keys, the version and the like.
    pub async fn request_unsigned<R: DeserializeOwned>(
        &self,
        destination: &ServerName,
        request: FederationRequest,
    ) -> Result<R, FederationError> {
        let limit = request.answer_bytes_max;
        let exchange = async { read_answer(self.send(destination, &request, Signing::Unsigned).await?, limit).await };
        parse_json(&self.watched(destination, exchange).await?.body)
    }

    /// Sends a signed request and returns with the head of a successful answer; the caller reads the body.
    async fn open(&self, destination: &ServerName, request: FederationRequest) -> Result<Response, FederationError> {
        let exchange = async {
            let response = self.send(destination, &request, Signing::Signed).await?;
            if response.status().is_success() || response.status().is_redirection() {
                return Ok(response);
            }
            match read_answer(response, ANSWER_BYTES_MAX).await {
                Ok(_) => Err(FederationError::Malformed("neither success nor error".to_owned())),
                Err(error) => Err(error),
            }
        };
        self.watched(destination, exchange).await
    }

    /// Runs an exchange and notes what it says about the server.
    async fn watched<T>(
        &self,
        destination: &ServerName,
        exchange: impl Future<Output = Result<T, FederationError>>,
    ) -> Result<T, FederationError> {
        let outcome = exchange.await;
        match &outcome {
            Ok(_) => self.destinations.record_success(destination),
            Err(error) if error.is_outage() => {
                self.destinations.record_failure(destination);
                if !matches!(error, FederationError::Status { .. }) {
                    self.resolver.expire(destination);
                }
            }
            // It answered, even if not as wished.
            Err(FederationError::Status { status: ..500, .. }) => self.destinations.record_success(destination),
            Err(_) => {}
        }
        outcome
    }

    async fn send(
        &self,
        destination: &ServerName,
        request: &FederationRequest,
        signing: Signing,
    ) -> Result<Response, FederationError> {
        if destination == self.own_name() {
            return Err(FederationError::OwnServer);
        }
        self.policy.check(destination)?;
        if request.urgency == Urgency::Background
            && let Some(retry_at_ms) = self.destinations.get_retry_at_ms(destination)
        {
            return Err(FederationError::Backoff { server: destination.to_owned(), retry_at_ms });
        }
        let route = self.resolver.resolve(destination).await?;
        let url = Url::parse(&format!("{}{}", route.base.as_str().trim_end_matches('/'), request.path))
            .map_err(|error| FederationError::Malformed(format!("request path: {error}")))?;
        // What is signed is what stands on the wire, after the URL parser has had its way with it.
        let uri = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut headers = HeaderMap::new();
        if let Some(host) = route.host_override().and_then(|host| HeaderValue::from_str(host).ok()) {
            headers.insert(header::HOST, host);
        }
        if let Signing::Signed = signing {
            let signed = SignedRequest {
                method: request.method.as_str(),
                uri: &uri,
                origin: self.own_name(),
                destination,
                content: request.body.as_ref(),
            };
            let authorization = HeaderValue::from_str(&signed.sign(&self.signer))
                .map_err(|error| FederationError::Malformed(error.to_string()))?;
            headers.insert(header::AUTHORIZATION, authorization);
        }
        if request.body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let outgoing = Request {
            headers,
            body: request.body.as_ref().map(|body| Bytes::from(canonical_lenient(body))),
            timeout: Some(request.timeout),
            host_meaning: route.host_meaning,
            ..Request::new(request.method.clone(), url)
        };
        tracing::debug!(destination = %destination, method = %request.method, uri, "federation request");
        Ok(self.connector.send(outgoing).await?)
    }
}

enum Signing {
    Signed,
    Unsigned,
}

/// Reads an answer; an answer that is not a success becomes the error it describes.
async fn read_answer(response: Response, limit: usize) -> Result<CappedResponse, FederationError> {
    let answer = response.capped(limit).await?;
    if answer.status.is_success() { Ok(answer) } else { Err(status_error(answer.status, &answer.body)) }
}

fn status_error(status: StatusCode, body: &[u8]) -> FederationError {
    #[derive(Default, Deserialize)]
    struct MatrixError {
        errcode: Option<String>,
        error: Option<String>,
    }
    let described: MatrixError = serde_json::from_slice(body).unwrap_or_default();
    let error = described.error.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
    // Passed on to users and logs: long enough for a reason, too short for a page.
    let error = error.chars().take(500).collect();
    FederationError::Status { status: status.as_u16(), errcode: described.errcode, error }
}

fn parse_json<R: DeserializeOwned>(body: &[u8]) -> Result<R, FederationError> {
    serde_json::from_slice(body).map_err(|error| FederationError::Malformed(error.to_string()))
}

/// An encoded path below `prefix`, of the given segments.
pub(super) fn path<const N: usize>(prefix: &str, segments: [&str; N]) -> String {
    let mut path = prefix.to_owned();
    for segment in segments {
        path.push('/');
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    path
}

/// Adds a query to a path.
pub(super) fn with_query<'a>(path: String, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    let query = query.finish();
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

pub use self::events::{StateIdsAnswer, TransactionAnswer};
use self::splitter::EventSplitter;

const FEDERATION_V1: &str = "/_matrix/federation/v1";
const FEDERATION_UNSTABLE: &str = "/_matrix/federation/unstable";
const FEDERATION_V2: &str = "/_matrix/federation/v2";

#[cfg(test)]
mod closed_tests;
#[cfg(test)]
pub(crate) mod tests;
