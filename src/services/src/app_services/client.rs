//! What this server asks application services: whether a user or an alias of theirs is to exist, whether they can be reached, and what
//! they know of third-party networks.
//!
//! Requests go only to the URLs of the registrations, wherever these lead: the operator named them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_rooms::Rooms;
use chappe_store::{Batch, CommitError, RoomNid, StoreError, tables::app_services::NETWORK_ROOMS};
use futures_util::future::join_all;
use http::{HeaderValue, Method, StatusCode, header};
use ruma::{RoomAliasId, RoomId, UserId};
use serde_json::{Map, Value as JsonValue, json};
use url::Url;

use super::{Registration, Registrations};
use crate::{
    accounts::Accounts,
    connector::{CappedResponse, ConnectError, Connector, Request},
};

/// How long a service may take to make up a user or a room, or to answer a lookup.
const QUERY_TIME_MAX: Duration = Duration::from_secs(15);
/// How long a service may take to answer a ping.
const PING_TIME_MAX: Duration = Duration::from_secs(30);
/// The largest answer read, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How much of the answer to a failed ping is shown to the service.
const SHOWN_BODY_CHARS_MAX: usize = 4_096;
/// The most entries of one lookup.
const LOOKUP_ENTRIES_MAX: usize = 1_000;
/// The longest name of a network, in bytes.
const NETWORK_BYTES_MAX: usize = 255;

/// A ping that did not come back.
#[derive(Debug, thiserror::Error)]
pub enum PingError {
    #[error("the service has another id")]
    WrongService,
    #[error("the registration has no url")]
    NoUrl,
    #[error("the service did not answer in time")]
    TimedOut,
    #[error("the service cannot be reached: {0}")]
    Unreachable(String),
    #[error("the service answered with status {status}")]
    BadStatus { status: u16, body: String },
}

/// A service's list of rooms that was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SetNetworkRoomError {
    #[error("there is no such room here")]
    UnknownRoom,
    #[error("the name of the network is empty or too long")]
    InvalidNetwork,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// Which entities of a third-party network are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThirdPartyKind {
    Locations,
    Users,
}

impl ThirdPartyKind {
    fn path(self) -> &'static str {
        match self {
            Self::Locations => "location",
            Self::Users => "user",
        }
    }
}

/// Asks application services. Cheap to clone.
#[derive(Clone)]
pub struct AppServices {
    registrations: Registrations,
    connector: Connector,
    accounts: Arc<Accounts>,
    rooms: Rooms,
}

impl AppServices {
    /// `connector` is one that reaches the registered URLs ([`Connector::for_origins`]).
    pub fn new(connector: Connector, accounts: Arc<Accounts>, rooms: Rooms) -> Self {
        Self { registrations: accounts.app_services().clone(), connector, accounts, rooms }
    }

    pub fn registrations(&self) -> &Registrations {
        &self.registrations
    }

    pub(super) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Whether a local user exists, after having asked the services whose user this would be.
    pub async fn ensure_user(&self, user_id: &UserId) -> Result<bool, StoreError> {
        if !self.accounts.is_local(user_id) {
            return Ok(true);
        }
        if self.accounts.get_account(user_id)?.is_some() {
            return Ok(true);
        }
        for service in self.registrations.iter().filter(|service| service.covers_user(user_id)) {
            let path = ["users", user_id.as_str()];
            if self.is_confirmed(service, &path).await && self.accounts.get_account(user_id)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a local alias exists, after having asked the services whose alias this would be.
    pub async fn ensure_alias(&self, alias: &RoomAliasId) -> Result<bool, StoreError> {
        if self.rooms.get_alias(alias)?.is_some() {
            return Ok(true);
        }
        if alias.server_name() != self.rooms.server_name() {
            return Ok(false);
        }
        for service in self.registrations.iter().filter(|service| service.covers_alias(alias)) {
            let path = ["rooms", alias.as_str()];
            if self.is_confirmed(service, &path).await && self.rooms.get_alias(alias)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_confirmed(&self, service: &Registration, path: &[&str]) -> bool {
        match self.call(service, Method::GET, path, &[], None, QUERY_TIME_MAX).await {
            Ok(Some(answer)) => answer.status.is_success(),
            Ok(None) => false,
            Err(error) => {
                tracing::info!(%error, service = service.id, "an application service could not be asked");
                false
            }
        }
    }

    /// Asks a service whether it can be reached, for that service: `POST /appservice/{appserviceId}/ping`.
    pub async fn ping(
        &self,
        service: &Registration,
        id: &str,
        transaction_id: Option<&str>,
    ) -> Result<Duration, PingError> {
        if service.id != id {
            return Err(PingError::WrongService);
        }
        let mut body = Map::new();
        body.extend(transaction_id.map(|id| ("transaction_id".to_owned(), id.into())));
        let body = JsonValue::Object(body).to_string();
        let begun = Instant::now();
        let answer = self.call(service, Method::POST, &["ping"], &[], Some(body.into()), PING_TIME_MAX).await;
        match answer {
            Ok(None) => Err(PingError::NoUrl),
            Ok(Some(answer)) if answer.status.is_success() => Ok(begun.elapsed()),
            Ok(Some(answer)) => Err(PingError::BadStatus {
                status: answer.status.as_u16(),
                body: String::from_utf8_lossy(&answer.body).chars().take(SHOWN_BODY_CHARS_MAX).collect(),
            }),
            Err(ConnectError::Timeout) => Err(PingError::TimedOut),
            Err(error) => Err(PingError::Unreachable(error.to_string())),
        }
    }

    /// Hands a transaction to a service.
    pub(super) async fn push(&self, service: &Registration, id: &str, body: Bytes) -> Result<(), String> {
        match self.call(service, Method::PUT, &["transactions", id], &[], Some(body), Duration::from_secs(60)).await {
            Ok(Some(answer)) if answer.status.is_success() => Ok(()),
            Ok(Some(answer)) => Err(format!("status {}", answer.status.as_u16())),
            Ok(None) => Err("the registration has no url".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Every protocol that services offer, by its name, as they describe it: `GET /thirdparty/protocols`.
    pub async fn fetch_protocols(&self) -> Map<String, JsonValue> {
        let mut names: Vec<&str> =
            self.registrations.iter().flat_map(|service| service.protocols.iter().map(String::as_str)).collect();
        names.sort_unstable();
        names.dedup();
        let asked =
            names.into_iter().map(|name| async move { Some((name.to_owned(), self.fetch_protocol(name).await?)) });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// One protocol: what the services that offer it say, with the instances of all of them. `None`: nobody offers it.
    pub async fn fetch_protocol(&self, protocol: &str) -> Option<JsonValue> {
        let asked = self.offering(Some(protocol)).map(|service| async move {
            let answer = self.lookup(service, &["thirdparty", "protocol", protocol], &[]).await?;
            let JsonValue::Object(mut described) = answer else { return None };
            if let Some(JsonValue::Array(instances)) = described.get_mut("instances") {
                for instance in instances.iter_mut().filter_map(JsonValue::as_object_mut) {
                    // Unique over all services: it names the network in the room directory.
                    let network = instance.get("network_id").and_then(JsonValue::as_str).unwrap_or_default();
                    let id = instance_id(&service.id, network);
                    instance.insert("instance_id".to_owned(), id.into());
                }
            }
            Some(described)
        });
        let mut merged: Option<Map<String, JsonValue>> = None;
        for described in join_all(asked).await.into_iter().flatten() {
            let Some(first) = &mut merged else {
                merged = Some(described);
                continue;
            };
            if let (Some(JsonValue::Array(all)), Some(JsonValue::Array(more))) =
                (first.get_mut("instances"), described.get("instances"))
            {
                all.extend(more.iter().cloned());
            }
        }
        merged.map(JsonValue::Object)
    }

    /// Whether a service offers this protocol.
    pub fn is_offered(&self, protocol: &str) -> bool {
        self.offering(Some(protocol)).next().is_some()
    }

    /// Looks up locations or users in a network, or (without a protocol) by their Matrix name, which is among `fields` then.
    pub async fn fetch_third_party(
        &self,
        kind: ThirdPartyKind,
        protocol: Option<&str>,
        fields: &[(String, String)],
    ) -> Vec<JsonValue> {
        let asked = self.offering(protocol).map(|service| async move {
            let path: Vec<&str> = ["thirdparty", kind.path()].into_iter().chain(protocol).collect();
            match self.lookup(service, &path, fields).await {
                Some(JsonValue::Array(found)) => found,
                _ => Vec::new(),
            }
        });
        let found = join_all(asked).await.into_iter().flatten();
        found.filter(JsonValue::is_object).take(LOOKUP_ENTRIES_MAX).collect()
    }

    fn offering<'a>(&'a self, protocol: Option<&'a str>) -> impl Iterator<Item = &'a Registration> {
        self.registrations.iter().map(|service| &**service).filter(move |service| match protocol {
            Some(protocol) => service.protocols.iter().any(|offered| offered == protocol),
            None => !service.protocols.is_empty(),
        })
    }

    async fn lookup(&self, service: &Registration, path: &[&str], fields: &[(String, String)]) -> Option<JsonValue> {
        match self.call(service, Method::GET, path, fields, None, QUERY_TIME_MAX).await {
            Ok(Some(answer)) if answer.status.is_success() => serde_json::from_slice(&answer.body).ok(),
            Ok(_) => None,
            Err(error) => {
                tracing::info!(%error, service = service.id, "an application service could not be asked");
                None
            }
        }
    }

    /// Makes a request of a service; `None` if it wants none. Services that know only the paths from before the specification had
    /// versions are asked by these.
    async fn call(
        &self,
        service: &Registration,
        method: Method,
        path: &[&str],
        query: &[(String, String)],
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Option<CappedResponse>, ConnectError> {
        let Some(base) = &service.url else { return Ok(None) };
        let request = |prefix: &[&str]| -> Result<Request, ConnectError> {
            let mut request = Request::new(method.clone(), service_url(base, prefix, path, query)?);
            let token = HeaderValue::from_str(&format!("Bearer {}", service.hs_token.expose()));
            let mut token = token.map_err(|_| ConnectError::Url("the hs_token is no header value".to_owned()))?;
            token.set_sensitive(true);
            request.headers.insert(header::AUTHORIZATION, token);
            if let Some(body) = &body {
                request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                request.body = Some(body.clone());
            }
            request.timeout = Some(timeout);
            Ok(request)
        };
        let answer = self.connector.fetch_capped(request(&["_matrix", "app", "v1"])?, ANSWER_BYTES_MAX).await?;
        if !is_unknown_path(&answer) || path.first() == Some(&"ping") {
            return Ok(Some(answer));
        }
        let old: &[&str] = if path.first() == Some(&"thirdparty") { &["_matrix", "app", "unstable"] } else { &[] };
        self.connector.fetch_capped(request(old)?, ANSWER_BYTES_MAX).await.map(Some)
    }

    /// Puts a room on, or takes it from, the list of a network that a service bridges.
    ///
    /// Spec: Application Service API, Published room directories.
    pub async fn set_network_room(
        &self,
        service: &Registration,
        network: &str,
        room_id: &RoomId,
        is_listed: bool,
    ) -> Result<(), SetNetworkRoomError> {
        if network.is_empty() || network.len() > NETWORK_BYTES_MAX || network.contains('\0') {
            return Err(SetNetworkRoomError::InvalidNetwork);
        }
        let Some(room) = self.rooms.get_room(room_id)? else { return Err(SetNetworkRoomError::UnknownRoom) };
        let key: (String, RoomNid) = (instance_id(&service.id, network), room.nid);
        let mut batch = Batch::new();
        if is_listed {
            batch.put(&NETWORK_ROOMS, &key, &())
        } else {
            batch.delete(&NETWORK_ROOMS, &key)
        }
        self.rooms.store().commit(batch).await?;
        Ok(())
    }
}

/// What clients call a network: services may call theirs alike.
fn instance_id(service_id: &str, network: &str) -> String {
    format!("{service_id}|{network}")
}

fn service_url(base: &Url, prefix: &[&str], path: &[&str], query: &[(String, String)]) -> Result<Url, ConnectError> {
    let mut url = base.clone();
    match url.path_segments_mut() {
        Ok(mut segments) => {
            segments.pop_if_empty().extend(prefix).extend(path);
        }
        Err(()) => return Err(ConnectError::Url(base.to_string())),
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url)
}

/// Whether the answer says that the path is not one of the service's, rather than that what is asked for does not exist.
fn is_unknown_path(answer: &CappedResponse) -> bool {
    if !matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
        return false;
    }
    let body: JsonValue = serde_json::from_slice(&answer.body).unwrap_or_else(|_| json!({}));
    body.get("errcode").is_none_or(|errcode| errcode == "M_UNRECOGNIZED")
}
