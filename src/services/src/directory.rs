//! The room directory: which room an alias means, and the list of public rooms; of this server, and of others by asking them.
//!
//! Aliases and the list are kept by the rooms crate; who may change them is decided there.

use std::{cmp::Reverse, collections::BTreeSet};

use chappe_rooms::{RoomError, Rooms, remote::RemoteError};
use chappe_store::{Direction, RoomNid, StoreError, tables::app_services::NETWORK_ROOMS};
use futures_util::future::BoxFuture;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, ServerName,
    directory::{Filter, RoomNetwork},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value as JsonValue, json};

use crate::{
    federation::{client::FederationClient, remote::remote_error},
    room_summary::{RoomSummaries, RoomSummary},
};

/// The most rooms that one page of the list holds.
const PAGE_ROOMS_MAX: usize = 100;

/// A page of a list of public rooms, in the form that clients and servers are given.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PublicRooms {
    pub chunk: Vec<RoomSummary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_room_count_estimate: Option<u64>,
}

/// What an alias means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedAlias {
    pub room_id: OwnedRoomId,
    /// Servers that are in the room, the likeliest to help first.
    pub servers: Vec<OwnedServerName>,
}

/// Which part of the list is wanted.
#[derive(Clone, Debug, Default)]
pub struct PublicRoomsQuery {
    pub limit: Option<usize>,
    /// The token of another page.
    pub since: Option<String>,
    pub filter: Filter,
    pub network: RoomNetwork,
}

/// A list that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PublicRoomsError {
    #[error("the page token is not one of this server's")]
    InvalidToken,
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Rooms(#[from] RoomError),
    #[error(transparent)]
    Read(#[from] StoreError),
}

/// The directories of other servers.
pub trait RemoteDirectory: Send + Sync {
    /// What its server says an alias means; `None` if it knows no such alias.
    fn fetch_alias<'a>(&'a self, alias: &'a RoomAliasId) -> BoxFuture<'a, Result<Option<ResolvedAlias>, RemoteError>>;
    fn fetch_public_rooms<'a>(
        &'a self,
        server: &'a ServerName,
        query: JsonValue,
    ) -> BoxFuture<'a, Result<PublicRooms, RemoteError>>;
}

impl RemoteDirectory for FederationClient {
    fn fetch_alias<'a>(&'a self, alias: &'a RoomAliasId) -> BoxFuture<'a, Result<Option<ResolvedAlias>, RemoteError>> {
        Box::pin(async move {
            let server = alias.server_name();
            match self.query_directory(server, alias).await.map_err(|error| remote_error(server, error)) {
                Ok(answer) => Ok(Some(ResolvedAlias { room_id: answer.room_id, servers: answer.servers })),
                Err(RemoteError::Refused { status: 404, .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn fetch_public_rooms<'a>(
        &'a self,
        server: &'a ServerName,
        query: JsonValue,
    ) -> BoxFuture<'a, Result<PublicRooms, RemoteError>> {
        Box::pin(async move {
            FederationClient::fetch_public_rooms(self, server, query).await.map_err(|error| remote_error(server, error))
        })
    }
}

pub struct Directory {
    rooms: Rooms,
    summaries: RoomSummaries,
    remote: Box<dyn RemoteDirectory>,
}

/// For whom a list is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Audience {
    Users,
    /// Rooms that do not federate are left out.
    Servers,
}

impl Directory {
    pub fn new(rooms: Rooms, remote: impl RemoteDirectory + 'static) -> Self {
        Self { summaries: RoomSummaries::new(rooms.clone()), rooms, remote: Box::new(remote) }
    }

    /// The room an alias means, if its server knows it.
    pub async fn resolve_alias(&self, alias: &RoomAliasId) -> Result<Option<ResolvedAlias>, RoomError> {
        if alias.server_name() != self.rooms.server_name() {
            return Ok(self.remote.fetch_alias(alias).await?);
        }
        let Some(record) = self.rooms.get_alias(alias)? else { return Ok(None) };
        let Some(room_id) = self.rooms.get_room_id(record.room)? else { return Ok(None) };
        let mut servers = self.rooms.get_joined_servers(record.room)?;
        // This server first: it is the one that answers.
        servers.sort_by_key(|server| server != self.rooms.server_name());
        Ok(Some(ResolvedAlias { room_id, servers }))
    }

    /// A page of this server's list.
    pub fn get_public_rooms(&self, query: &PublicRoomsQuery) -> Result<PublicRooms, PublicRoomsError> {
        self.page(query, Audience::Users)
    }

    /// A page of this server's list, for another server.
    pub fn get_federated_public_rooms(&self, query: &PublicRoomsQuery) -> Result<PublicRooms, PublicRoomsError> {
        self.page(query, Audience::Servers)
    }

    /// A page of another server's list.
    pub async fn fetch_public_rooms(
        &self,
        server: &ServerName,
        query: &PublicRoomsQuery,
    ) -> Result<PublicRooms, PublicRoomsError> {
        let mut body = json!({ "filter": query.filter });
        if let Some(object) = body.as_object_mut() {
            object.extend(query.limit.map(|limit| ("limit".to_owned(), limit.into())));
            object.extend(query.since.as_ref().map(|since| ("since".to_owned(), since.as_str().into())));
            match &query.network {
                RoomNetwork::All => object.extend([("include_all_networks".to_owned(), true.into())]),
                RoomNetwork::ThirdParty(id) => {
                    object.extend([("third_party_instance_id".to_owned(), id.as_str().into())])
                }
                // The network of Matrix itself: nothing need be said.
                _ => {}
            }
        }
        Ok(self.remote.fetch_public_rooms(server, body).await?)
    }

    fn page(&self, query: &PublicRoomsQuery, audience: Audience) -> Result<PublicRooms, PublicRoomsError> {
        let cursor = query.since.as_deref().map(Cursor::parse).transpose()?;
        let mut listed = Vec::new();
        for room in self.scan_network(&query.network)? {
            listed.extend(self.entry(room, query, audience)?);
        }
        // The largest first; rooms of a size in the order of their ids, so that pages fit together.
        listed.sort_by_cached_key(Entry::key);
        let limit = query.limit.unwrap_or(PAGE_ROOMS_MAX).clamp(1, PAGE_ROOMS_MAX);
        let (start, end) = match &cursor {
            None => (0, limit.min(listed.len())),
            Some(Cursor::After(key)) => {
                let start = listed.partition_point(|entry| entry.key() <= *key);
                (start, start.saturating_add(limit).min(listed.len()))
            }
            Some(Cursor::Before(key)) => {
                let end = listed.partition_point(|entry| entry.key() < *key);
                (end.saturating_sub(limit), end)
            }
        };
        let total = listed.len();
        let page = listed.get(start..end).unwrap_or_default();
        let next_batch = page.last().filter(|_| end < total).map(|entry| Cursor::After(entry.key()).to_token());
        let prev_batch = page.first().filter(|_| start > 0).map(|entry| Cursor::Before(entry.key()).to_token());
        let mut chunk = Vec::new();
        for entry in page {
            match &entry.summary {
                Some(summary) => chunk.push(summary.clone()),
                None => chunk.extend(self.describe(entry.room)?),
            }
        }
        Ok(PublicRooms { chunk, next_batch, prev_batch, total_room_count_estimate: u64::try_from(total).ok() })
    }

    /// The rooms of the list: of Matrix itself, of a network that an application service bridges, or of all of them.
    fn scan_network(&self, network: &RoomNetwork) -> Result<BTreeSet<RoomNid>, PublicRoomsError> {
        let mut listed = BTreeSet::new();
        if !matches!(network, RoomNetwork::ThirdParty(_)) {
            listed.extend(self.rooms.get_listed_rooms()?);
        }
        let store = self.rooms.store();
        let bridged: Vec<_> = match network {
            RoomNetwork::ThirdParty(id) => store.scan(&NETWORK_ROOMS, &(id.clone(),), Direction::Forward).collect(),
            RoomNetwork::All => store.scan(&NETWORK_ROOMS, &(), Direction::Forward).collect(),
            _ => Vec::new(),
        };
        for row in bridged {
            let ((_, room), ()) = row?;
            listed.insert(room);
        }
        Ok(listed)
    }

    /// The room as an entry of the list, if nothing speaks against it.
    fn entry(
        &self,
        room: RoomNid,
        query: &PublicRoomsQuery,
        audience: Audience,
    ) -> Result<Option<Entry>, PublicRoomsError> {
        let joined = self.rooms.get_joined_count(room)?;
        let Some(room_id) = self.rooms.get_room_id(room)? else { return Ok(None) };
        if joined == 0 || (audience == Audience::Servers && !self.summaries.is_federated(room)?) {
            return Ok(None);
        }
        let mut entry = Entry { room, room_id, joined, summary: None };
        if !query.filter.is_empty() {
            let Some(summary) = self.describe(room)?.filter(|summary| is_wanted(&query.filter, summary)) else {
                return Ok(None);
            };
            entry.summary = Some(summary);
        }
        Ok(Some(entry))
    }

    fn describe(&self, room: RoomNid) -> Result<Option<RoomSummary>, StoreError> {
        let Some(room) = self.rooms.get_room_by_nid(room)? else { return Ok(None) };
        Ok(Some(self.summaries.get(&room)?.for_list()))
    }
}

struct Entry {
    room: RoomNid,
    room_id: OwnedRoomId,
    joined: u64,
    /// Already made where a filter needed it.
    summary: Option<RoomSummary>,
}

type EntryKey = (Reverse<u64>, OwnedRoomId);

impl Entry {
    fn key(&self) -> EntryKey {
        (Reverse(self.joined), self.room_id.clone())
    }
}

/// A page token: right after or right before an entry, which need no longer be there.
enum Cursor {
    After(EntryKey),
    Before(EntryKey),
}

impl Cursor {
    fn parse(token: &str) -> Result<Self, PublicRoomsError> {
        let parse = || {
            let (joined, room_id) = token.get(1..)?.split_once('_')?;
            let key = (Reverse(joined.parse().ok()?), OwnedRoomId::try_from(room_id).ok()?);
            match token.get(..1)? {
                "n" => Some(Self::After(key)),
                "p" => Some(Self::Before(key)),
                _ => None,
            }
        };
        parse().ok_or(PublicRoomsError::InvalidToken)
    }

    fn to_token(&self) -> String {
        match self {
            Self::After((joined, room_id)) => format!("n{}_{room_id}", joined.0),
            Self::Before((joined, room_id)) => format!("p{}_{room_id}", joined.0),
        }
    }
}

fn is_wanted(filter: &Filter, summary: &RoomSummary) -> bool {
    let is_type = filter.room_types.is_empty()
        || filter.room_types.iter().any(|wanted| wanted.as_str() == summary.room_type.as_deref());
    let is_found = filter.generic_search_term.as_deref().is_none_or(|term| {
        let term = term.to_lowercase();
        let texts = [summary.name.as_deref(), summary.topic.as_deref(), summary.canonical_alias.as_deref()];
        texts.into_iter().flatten().any(|text| text.to_lowercase().contains(&term))
    });
    is_type && is_found
}
