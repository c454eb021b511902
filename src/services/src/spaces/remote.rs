//! Asking other servers about spaces, and remembering what they said for a while.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc};

use chappe_rooms::remote::RemoteError;
use futures_util::future::BoxFuture;
use lru::LruCache;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};

use super::{CHILDREN_MAX, Hierarchy, SpaceRoom, Spaces, ordered};
use crate::{
    federation::{client::FederationClient, remote::remote_error},
    room_summary::RoomSummary,
};

/// How long an answer is believed, in milliseconds.
const ANSWER_MS: u64 = 5 * 60 * 1_000;
/// How many answers are remembered.
const ANSWERS_MAX: usize = 1_000;
/// How many servers are asked about one room.
const SERVERS_MAX: usize = 3;

/// Other servers, as far as spaces ask them.
pub trait RemoteHierarchy: Send + Sync {
    fn fetch_hierarchy<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        suggested_only: bool,
    ) -> BoxFuture<'a, Result<Hierarchy, RemoteError>>;

    /// Whether a server may be asked at all.
    fn may_ask(&self, server: &ServerName) -> bool;
}

impl RemoteHierarchy for FederationClient {
    fn fetch_hierarchy<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        suggested_only: bool,
    ) -> BoxFuture<'a, Result<Hierarchy, RemoteError>> {
        Box::pin(async move {
            let answer = Self::fetch_hierarchy(self, server, room_id, suggested_only).await;
            answer.map_err(|error| remote_error(server, error))
        })
    }

    fn may_ask(&self, server: &ServerName) -> bool {
        self.policy().check(server).is_ok()
    }
}

/// What a server said of a space.
pub(super) struct RemoteSpace {
    pub(super) room: SpaceRoom,
    pub(super) children: HashMap<OwnedRoomId, Arc<RoomSummary>>,
    /// Children that nobody here could join: they need not be asked for again.
    pub(super) inaccessible: Vec<OwnedRoomId>,
}

impl RemoteSpace {
    /// What is left of an answer when all that cannot be is taken out.
    fn read(answer: Hierarchy, suggested_only: bool) -> Self {
        let Hierarchy { mut room, children, inaccessible_children } = answer;
        let links = if room.summary.is_space() { room.children_state } else { Vec::new() };
        room.children_state = ordered(links, suggested_only);
        let children = children.into_iter().take(CHILDREN_MAX).filter_map(|child| {
            let summary: RoomSummary = serde_json::from_value(child).ok()?;
            Some((summary.room_id.clone(), Arc::new(summary)))
        });
        let inaccessible =
            inaccessible_children.iter().take(CHILDREN_MAX).filter_map(|child| RoomId::parse(child).ok());
        Self { children: children.collect(), inaccessible: inaccessible.collect(), room }
    }
}

/// Server, room, whether only suggested children were asked for -> when the answer came, and the answer. By server, so that none can put
/// words into another's mouth.
pub(super) type Answers = LruCache<(OwnedServerName, OwnedRoomId, bool), (u64, Arc<RemoteSpace>)>;

pub(super) fn no_answers() -> Answers {
    LruCache::new(NonZeroUsize::new(ANSWERS_MAX).unwrap_or(NonZeroUsize::MIN))
}

impl Spaces {
    /// What a server says of a room; `None` if it says nothing. Only answers are remembered: who is refused now may not be later.
    pub(super) async fn fetch(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Option<Arc<RemoteSpace>> {
        let key = (server.to_owned(), room_id.to_owned(), suggested_only);
        let now_ms = self.clock.now_ms();
        if let Some((at_ms, answer)) = self.answers.lock().get(&key)
            && now_ms.saturating_sub(*at_ms) < ANSWER_MS
        {
            return Some(answer.clone());
        }
        let answer = match self.remote.fetch_hierarchy(server, room_id, suggested_only).await {
            Ok(answer) if answer.room.summary.room_id == room_id => answer,
            Ok(_) => {
                tracing::info!(server = %server, room.id = %room_id, "a server answered about another room");
                return None;
            }
            Err(error) => {
                tracing::debug!(%error, server = %server, room.id = %room_id, "no summary from this server");
                return None;
            }
        };
        let answer = Arc::new(RemoteSpace::read(answer, suggested_only));
        self.answers.lock().put(key, (now_ms, answer.clone()));
        Some(answer)
    }

    /// Whom to ask about a room that this server is not in: the servers named, who invited the user, and who gave the room its id.
    pub(super) fn servers_to_ask(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<Vec<OwnedServerName>, chappe_store::StoreError> {
        let mut servers = Vec::new();
        if let Some(room) = self.rooms.get_room_nid(room_id)?
            && let Some(member) =
                self.rooms.get_user_room(user, room)?.filter(|member| member.value.membership == "invite")
        {
            servers.push(member.value.sender.server_name().to_owned());
        }
        servers.extend(via.iter().cloned());
        servers.extend(room_id.server_name().map(ToOwned::to_owned));
        let mut asked: Vec<OwnedServerName> = Vec::new();
        for server in servers {
            let is_new = server != self.rooms.server_name() && !asked.contains(&server);
            if is_new && asked.len() < SERVERS_MAX && self.remote.may_ask(&server) {
                asked.push(server);
            }
        }
        Ok(asked)
    }
}
