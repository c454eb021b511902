//! Spaces: walking the tree of rooms below one, page by page, and the summary of a single room; of rooms that this server is in by
//! their state, of others by asking servers that are.
//!
//! [`walk`] goes through the tree for a client, [`remote`] asks other servers and remembers their answers for a while, [`Spaces::answer`]
//! is the answer to a server that asks. Whom a room may be told of is decided in [`crate::room_summary`].
//!
//! Spec: Client-Server API, Discovering rooms within spaces, Room summaries; Server-Server API, Spaces.

mod remote;
#[cfg(test)]
mod tests;
mod walk;

use std::{num::NonZeroUsize, sync::Arc};

use chappe_protocol::clock::Clock;
use chappe_rooms::{Event, Room, RoomError, Rooms};
use chappe_store::StoreError;
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as JsonValue};

use self::{remote::Answers, walk::Walk};
pub use self::{
    remote::RemoteHierarchy,
    walk::{HierarchyError, HierarchyPage, HierarchyQuery},
};
use crate::room_summary::{RoomSummaries, RoomSummary};

/// How many links to children are read of one space.
const CHILDREN_MAX: usize = 1_000;
/// How many children are described to a server that asks.
const CHILDREN_DESCRIBED_MAX: usize = 200;
/// How many unfinished walks are kept in memory, of all users.
const WALKS_MAX: usize = 200;
/// How many servers of one link are looked at.
const VIA_MAX: usize = 10;

/// A room with its links to children, as clients and servers are given it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpaceRoom {
    #[serde(flatten)]
    pub summary: RoomSummary,
    #[serde(default)]
    pub children_state: Vec<ChildLink>,
}

/// An `m.space.child` event: stripped, and with its time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChildLink {
    #[serde(rename = "type")]
    pub kind: String,
    pub state_key: String,
    pub sender: String,
    pub content: Map<String, JsonValue>,
    pub origin_server_ts: i64,
}

/// The answer of a server that is in a room: the room, and what it knows of the children.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hierarchy {
    pub room: SpaceRoom,
    /// Summaries; an entry that is none is passed over by those who read it.
    #[serde(default)]
    pub children: Vec<JsonValue>,
    #[serde(default)]
    pub inaccessible_children: Vec<String>,
}

impl ChildLink {
    fn of(event: &Event) -> Option<Self> {
        let link = Self {
            kind: "m.space.child".to_owned(),
            state_key: event.pdu.state_key()?.to_owned(),
            sender: event.pdu.sender.to_string(),
            content: event.pdu.get_content().ok()?,
            origin_server_ts: event.pdu.origin_server_ts.get().into(),
        };
        link.is_valid().then_some(link)
    }

    /// A link without servers to reach the child by is no link.
    fn is_valid(&self) -> bool {
        let has_via = self.content.get("via").and_then(JsonValue::as_array).is_some_and(|via| !via.is_empty());
        self.kind == "m.space.child" && has_via && self.child().is_some()
    }

    fn child(&self) -> Option<OwnedRoomId> {
        RoomId::parse(&self.state_key).ok()
    }

    fn is_suggested(&self) -> bool {
        self.content.get("suggested").and_then(JsonValue::as_bool) == Some(true)
    }

    fn via(&self) -> Vec<OwnedServerName> {
        let via = self.content.get("via").and_then(JsonValue::as_array);
        let servers = via.into_iter().flatten().filter_map(|server| ServerName::parse(server.as_str()?).ok());
        servers.take(VIA_MAX).collect()
    }

    /// Where the link stands among its siblings: by a valid `order` first, then by age, then by room id.
    ///
    /// Spec: Client-Server API, Ordering of children within a space.
    fn sort_key(&self) -> (bool, &str, i64, &str) {
        let order = self.content.get("order").and_then(JsonValue::as_str);
        let order = order.filter(|order| order.len() <= 50 && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        (order.is_none(), order.unwrap_or_default(), self.origin_server_ts, &self.state_key)
    }
}

/// The links that count, in order.
fn ordered(mut links: Vec<ChildLink>, suggested_only: bool) -> Vec<ChildLink> {
    links.retain(|link| link.is_valid() && (!suggested_only || link.is_suggested()));
    links.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
    links.truncate(CHILDREN_MAX);
    links
}

pub struct Spaces {
    rooms: Rooms,
    summaries: RoomSummaries,
    remote: Arc<dyn RemoteHierarchy>,
    clock: Arc<dyn Clock>,
    answers: Mutex<Answers>,
    /// Walks that a client has seen only pages of, by their tokens. The least recently used make room for new ones, and are gone over
    /// again if they are asked for.
    walks: Mutex<LruCache<String, Arc<Walk>>>,
}

impl Spaces {
    pub fn new(rooms: Rooms, remote: Arc<dyn RemoteHierarchy>, clock: Arc<dyn Clock>) -> Self {
        Self {
            summaries: RoomSummaries::new(rooms.clone()),
            rooms,
            remote,
            clock,
            answers: Mutex::new(remote::no_answers()),
            walks: Mutex::new(LruCache::new(NonZeroUsize::new(WALKS_MAX).unwrap_or(NonZeroUsize::MIN))),
        }
    }

    /// The room, if this server is in it and so knows its current state.
    fn get_resident(&self, room_id: &RoomId) -> Result<Option<Room>, StoreError> {
        match self.rooms.get_room(room_id)? {
            Some(room) if self.rooms.is_server_joined(room.nid, self.rooms.server_name())? => Ok(Some(room)),
            _ => Ok(None),
        }
    }

    /// Whether a summary of the room can be told without asking other servers.
    pub fn is_resident(&self, room_id: &RoomId) -> Result<bool, StoreError> {
        Ok(self.get_resident(room_id)?.is_some())
    }

    fn get_local(&self, room: &Room, suggested_only: bool) -> Result<SpaceRoom, StoreError> {
        let summary = self.summaries.get(room)?;
        let mut children_state = Vec::new();
        if summary.is_space() {
            let links = self.rooms.get_space_children(room.nid, CHILDREN_MAX)?;
            children_state = ordered(links.iter().filter_map(|event| ChildLink::of(event)).collect(), suggested_only);
        }
        Ok(SpaceRoom { summary, children_state })
    }

    /// What this server tells another one about a room and its children; `None` if it does not know the room, or may not tell.
    pub fn answer(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<Option<Hierarchy>, StoreError> {
        let Some(room) = self.get_resident(room_id)? else { return Ok(None) };
        let space = self.get_local(&room, suggested_only)?;
        if !self.summaries.is_for_server(&space.summary, &room, origin)? {
            return Ok(None);
        }
        let mut children = Vec::new();
        let mut inaccessible_children = Vec::new();
        for child_id in space.children_state.iter().filter_map(ChildLink::child).take(CHILDREN_DESCRIBED_MAX) {
            let Some(child) = self.get_resident(&child_id)? else { continue };
            let summary = self.summaries.get(&child)?;
            if self.summaries.is_for_server(&summary, &child, origin)? {
                children.extend(serde_json::to_value(summary).ok());
            } else {
                inaccessible_children.push(child_id.to_string());
            }
        }
        Ok(Some(Hierarchy { room: space, children, inaccessible_children }))
    }

    /// The summary of a room, if it may be told to the user, or to anybody where no user asks; other servers are asked for users only.
    pub async fn get_summary(
        &self,
        user: Option<&UserId>,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<Option<RoomSummary>, RoomError> {
        if let Some(room) = self.get_resident(room_id)? {
            let summary = self.summaries.get(&room)?;
            let is_told = match user {
                Some(user) => self.summaries.is_for_user(&summary, user)?,
                None => summary.is_open(),
            };
            return Ok(is_told.then_some(summary));
        }
        let Some(user) = user else { return Ok(None) };
        for server in self.servers_to_ask(user, room_id, via)? {
            let Some(space) = self.fetch(&server, room_id, false).await else { continue };
            if self.summaries.is_for_user(&space.room.summary, user)? {
                return Ok(Some(space.room.summary.clone()));
            }
        }
        Ok(None)
    }
}
