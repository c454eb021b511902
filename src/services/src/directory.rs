//! The room directory: which room an alias means, and the list of public rooms; of this server, and of others by asking them.
//!
//! Aliases and the list are kept by the rooms crate; who may change them is decided there.

use std::cmp::Reverse;

use chappe_rooms::{RoomError, Rooms, remote::RemoteError};
use chappe_store::{RoomNid, StoreError};
use futures_util::future::BoxFuture;
use ruma::{
    OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId, ServerName, UInt,
    api::federation::directory::get_public_rooms_filtered,
    directory::{Filter, PublicRoomsChunk, PublicRoomsChunkInit, RoomNetwork},
    events::{StateEventType, room::history_visibility::HistoryVisibility},
    room::{JoinRuleKind, RoomType},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value as JsonValue, json};

use crate::federation::{client::FederationClient, remote::remote_error};

/// The most rooms that one page of the list holds.
const PAGE_ROOMS_MAX: usize = 100;

/// A page of a list of public rooms.
pub type PublicRooms = get_public_rooms_filtered::v1::Response;

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
        Self { rooms, remote: Box::new(remote) }
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
        if !matches!(query.network, RoomNetwork::ThirdParty(_)) {
            for room in self.rooms.get_listed_rooms()? {
                listed.extend(self.entry(room, query, audience)?);
            }
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
            match &entry.chunk {
                Some(filled) => chunk.push(filled.clone()),
                None => chunk.push(self.describe(entry)?),
            }
        }
        let mut rooms = PublicRooms::new();
        rooms.chunk = chunk;
        rooms.next_batch = next_batch;
        rooms.prev_batch = prev_batch;
        rooms.total_room_count_estimate = UInt::try_from(total).ok();
        Ok(rooms)
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
        if joined == 0 || (audience == Audience::Servers && !self.create_content(room)?.federate) {
            return Ok(None);
        }
        let mut entry = Entry { room, room_id, joined, chunk: None };
        if !query.filter.is_empty() {
            let chunk = self.describe(&entry)?;
            if !is_wanted(&query.filter, &chunk) {
                return Ok(None);
            }
            entry.chunk = Some(chunk);
        }
        Ok(Some(entry))
    }

    fn describe(&self, entry: &Entry) -> Result<PublicRoomsChunk, PublicRoomsError> {
        let room = entry.room;
        let alias: Option<AliasContent> = self.content(room, StateEventType::RoomCanonicalAlias)?;
        let name: Option<NameContent> = self.content(room, StateEventType::RoomName)?;
        let topic: Option<TopicContent> = self.content(room, StateEventType::RoomTopic)?;
        let avatar: Option<AvatarContent> = self.content(room, StateEventType::RoomAvatar)?;
        let guests: Option<GuestContent> = self.content(room, StateEventType::RoomGuestAccess)?;
        let join_rules: Option<JoinRulesContent> = self.content(room, StateEventType::RoomJoinRules)?;
        let mut chunk = PublicRoomsChunk::from(PublicRoomsChunkInit {
            num_joined_members: UInt::new_saturating(entry.joined),
            room_id: entry.room_id.clone(),
            world_readable: self.rooms.get_history_visibility(room)? == HistoryVisibility::WorldReadable,
            guest_can_join: guests.is_some_and(|content| content.guest_access == "can_join"),
        });
        chunk.canonical_alias = alias.and_then(|content| content.alias);
        chunk.name = name.and_then(|content| content.name).filter(|name| !name.is_empty());
        chunk.topic = topic.and_then(|content| content.topic);
        chunk.avatar_url = avatar.and_then(|content| content.url);
        chunk.join_rule = join_rules.map_or(JoinRuleKind::Invite, |content| content.join_rule);
        chunk.room_type = self.create_content(room)?.room_type;
        Ok(chunk)
    }

    fn content<T: DeserializeOwned>(&self, room: RoomNid, event_type: StateEventType) -> Result<Option<T>, StoreError> {
        self.rooms.get_state_content(room, &event_type, "")
    }

    fn create_content(&self, room: RoomNid) -> Result<CreateContent, StoreError> {
        Ok(self.content(room, StateEventType::RoomCreate)?.unwrap_or_default())
    }
}

struct Entry {
    room: RoomNid,
    room_id: OwnedRoomId,
    joined: u64,
    /// Already made where a filter needed it.
    chunk: Option<PublicRoomsChunk>,
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

fn is_wanted(filter: &Filter, chunk: &PublicRoomsChunk) -> bool {
    let is_type = filter.room_types.is_empty()
        || filter.room_types.iter().any(|wanted| wanted.as_str() == chunk.room_type.as_ref().map(RoomType::as_str));
    let is_found = filter.generic_search_term.as_deref().is_none_or(|term| {
        let term = term.to_lowercase();
        let texts =
            [chunk.name.as_deref(), chunk.topic.as_deref(), chunk.canonical_alias.as_ref().map(|alias| alias.as_str())];
        texts.into_iter().flatten().any(|text| text.to_lowercase().contains(&term))
    });
    is_type && is_found
}

#[derive(Deserialize)]
struct AliasContent {
    alias: Option<OwnedRoomAliasId>,
}

#[derive(Deserialize)]
struct NameContent {
    name: Option<String>,
}

#[derive(Deserialize)]
struct TopicContent {
    topic: Option<String>,
}

#[derive(Deserialize)]
struct AvatarContent {
    url: Option<OwnedMxcUri>,
}

#[derive(Deserialize)]
struct GuestContent {
    guest_access: String,
}

#[derive(Deserialize)]
struct JoinRulesContent {
    join_rule: JoinRuleKind,
}

#[derive(Deserialize)]
struct CreateContent {
    #[serde(rename = "m.federate", default = "yes")]
    federate: bool,
    #[serde(rename = "type")]
    room_type: Option<RoomType>,
}

impl Default for CreateContent {
    fn default() -> Self {
        Self { federate: true, room_type: None }
    }
}

fn yes() -> bool {
    true
}
