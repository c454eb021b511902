//! A walk through the tree of rooms below one room, depth first, a page at a time.
//!
//! Where a walk stands between two pages is kept in memory, under a token; after a restart the client begins anew.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_rooms::RoomError;
use chappe_store::StoreError;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};

use super::{ChildLink, SpaceRoom, Spaces, remote::RemoteSpace};
use crate::room_summary::RoomSummary;

/// The most rooms on one page, and the number on a page where the client names none.
const PAGE_ROOMS_MAX: usize = 50;
/// How far down a walk goes.
const DEPTH_MAX: u32 = 50;
/// How many rooms one walk looks at, those among them that the user may not see.
const ROOMS_LOOKED_AT_MAX: usize = 5_000;
/// How many rooms wait to be visited. A tree too wide for this loses what would come last.
const PENDING_MAX: usize = 4_000;
/// How long a page waits for other servers, all together.
const PAGE_TIME: Duration = Duration::from_secs(20);

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub struct HierarchyQuery {
    /// The token of an earlier page.
    pub from: Option<String>,
    pub limit: Option<usize>,
    pub max_depth: Option<u32>,
    pub suggested_only: bool,
}

#[derive(Debug)]
pub struct HierarchyPage {
    pub rooms: Vec<SpaceRoom>,
    pub next_batch: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    #[error("The page token is not known")]
    UnknownToken,
    #[error("suggested_only and max_depth cannot change between pages")]
    ChangedQuery,
    /// Also for rooms that do not exist.
    #[error("You are not allowed to view this room")]
    NotForUser,
    #[error(transparent)]
    Rooms(#[from] RoomError),
    #[error(transparent)]
    Read(#[from] StoreError),
}

/// Where a walk stands. Never changed once it has a token: the same page can be asked for again.
#[derive(Clone)]
pub(super) struct Walk {
    user: OwnedUserId,
    root: OwnedRoomId,
    suggested_only: bool,
    max_depth: u32,
    /// What is to be visited, the next one last.
    pending: Vec<Step>,
    shown: HashSet<OwnedRoomId>,
    looked_at: usize,
}

/// A room to visit.
#[derive(Clone)]
struct Step {
    room_id: OwnedRoomId,
    via: Vec<OwnedServerName>,
    depth: u32,
    /// What the server that told of the parent said of this room.
    told: Told,
}

#[derive(Clone)]
enum Told {
    Nothing,
    Summary(Arc<RoomSummary>),
    Inaccessible,
}

/// A room that the user may see.
struct Found {
    room: SpaceRoom,
    /// What the server it comes from said of the children.
    of_children: Option<Arc<RemoteSpace>>,
}

impl Spaces {
    /// A page of the tree below a room, as this user may see it.
    pub async fn get_hierarchy(
        &self,
        user: &UserId,
        root: &RoomId,
        query: &HierarchyQuery,
    ) -> Result<HierarchyPage, HierarchyError> {
        let mut walk = match &query.from {
            Some(token) => self.resume(token, user, root, query)?,
            None => Walk {
                user: user.to_owned(),
                root: root.to_owned(),
                suggested_only: query.suggested_only,
                max_depth: query.max_depth.unwrap_or(DEPTH_MAX).min(DEPTH_MAX),
                pending: vec![Step { room_id: root.to_owned(), via: Vec::new(), depth: 0, told: Told::Nothing }],
                shown: HashSet::new(),
                looked_at: 0,
            },
        };
        let limit = query.limit.unwrap_or(PAGE_ROOMS_MAX).clamp(1, PAGE_ROOMS_MAX);
        let started = Instant::now();
        let mut rooms = Vec::new();
        while rooms.len() < limit && walk.looked_at < ROOMS_LOOKED_AT_MAX {
            if !rooms.is_empty() && started.elapsed() > PAGE_TIME {
                break;
            }
            let Some(step) = walk.pending.pop() else { break };
            if walk.shown.contains(&step.room_id) {
                continue;
            }
            walk.looked_at += 1;
            let Some(found) = self.look(&walk, &step).await? else {
                if step.depth == 0 {
                    return Err(HierarchyError::NotForUser);
                }
                continue;
            };
            walk.shown.insert(step.room_id);
            if step.depth < walk.max_depth {
                walk.descend(&found, step.depth + 1);
            }
            rooms.push(found.room);
        }
        walk.pending.retain(|step| !walk.shown.contains(&step.room_id));
        let is_over = walk.pending.is_empty() || walk.looked_at >= ROOMS_LOOKED_AT_MAX;
        let next_batch = (!is_over).then(|| {
            let token = hex::encode(rand::random::<[u8; 16]>());
            self.walks.lock().put(token.clone(), Arc::new(walk));
            token
        });
        Ok(HierarchyPage { rooms, next_batch })
    }

    fn resume(
        &self,
        token: &str,
        user: &UserId,
        root: &RoomId,
        query: &HierarchyQuery,
    ) -> Result<Walk, HierarchyError> {
        let walk = self.walks.lock().get(token).cloned();
        let walk = walk.filter(|walk| walk.user == user && walk.root == root).ok_or(HierarchyError::UnknownToken)?;
        // Left off on a later page, they are as they were on the first.
        let is_other_depth = query.max_depth.is_some_and(|depth| depth.min(DEPTH_MAX) != walk.max_depth);
        if is_other_depth || (query.suggested_only && !walk.suggested_only) {
            return Err(HierarchyError::ChangedQuery);
        }
        Ok((*walk).clone())
    }

    /// The room of a step, if it can be found and the user may see it.
    async fn look(&self, walk: &Walk, step: &Step) -> Result<Option<Found>, HierarchyError> {
        if let Some(room) = self.get_resident(&step.room_id)? {
            let room = self.get_local(&room, walk.suggested_only)?;
            let is_told = self.summaries.is_for_user(&room.summary, &walk.user)?;
            return Ok(is_told.then_some(Found { room, of_children: None }));
        }
        let told = match &step.told {
            Told::Inaccessible => return Ok(None),
            Told::Summary(summary) => Some(summary),
            Told::Nothing => None,
        };
        let as_told = |summary: &Arc<RoomSummary>| Found {
            room: SpaceRoom { summary: (**summary).clone(), children_state: Vec::new() },
            of_children: None,
        };
        if let Some(summary) = told.filter(|summary| !summary.is_space()) {
            return Ok(self.summaries.is_for_user(summary, &walk.user)?.then(|| as_told(summary)));
        }
        for server in self.servers_to_ask(&walk.user, &step.room_id, &step.via)? {
            let Some(space) = self.fetch(&server, &step.room_id, walk.suggested_only).await else { continue };
            if self.summaries.is_for_user(&space.room.summary, &walk.user)? {
                return Ok(Some(Found { room: space.room.clone(), of_children: Some(space) }));
            }
        }
        match told {
            Some(summary) => Ok(self.summaries.is_for_user(summary, &walk.user)?.then(|| as_told(summary))),
            None => Ok(None),
        }
    }
}

impl Walk {
    /// Puts the children of a room before everything else that is to be visited.
    fn descend(&mut self, found: &Found, depth: u32) {
        let step = |link: &ChildLink| {
            let room_id = link.child()?;
            let told = match &found.of_children {
                Some(space) if space.inaccessible.contains(&room_id) => Told::Inaccessible,
                Some(space) => space.children.get(&room_id).cloned().map_or(Told::Nothing, Told::Summary),
                None => Told::Nothing,
            };
            Some(Step { room_id, via: link.via(), depth, told })
        };
        let steps: Vec<_> = found.room.children_state.iter().filter_map(step).collect();
        self.pending.extend(steps.into_iter().rev());
        let excess = self.pending.len().saturating_sub(PENDING_MAX);
        self.pending.drain(..excess);
    }
}
