//! A walk through the tree of rooms below one room, depth first, a page at a time.
//!
//! A page's token says with which room the page ended. Where the walk stands then is kept in memory for a while; if it is not, after a
//! restart or for lack of room, the walk is gone over again up to that room. So a token opens nothing that its bearer may not see.

use std::{
    collections::HashSet,
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_rooms::RoomError;
use chappe_store::StoreError;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};
use sha2::{Digest, Sha256};

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
    #[error("The page token is not known, or leads nowhere any more")]
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

/// With which room a page ended, of whose walk, and how that walk was begun.
#[derive(Clone, PartialEq, Eq, Debug)]
struct PageToken {
    max_depth: u32,
    suggested_only: bool,
    /// A digest of user and root: no secret, it only tells one walk's tokens from another's.
    walk: String,
    last: OwnedRoomId,
}

impl PageToken {
    fn digest(user: &UserId, root: &RoomId) -> String {
        hex::encode(Sha256::digest(format!("{user} {root}")).get(..8).unwrap_or_default())
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_depth, suggested_only, walk, last } = self;
        write!(f, "{max_depth}_{}_{walk}_{last}", u8::from(*suggested_only))
    }
}

impl FromStr for PageToken {
    type Err = HierarchyError;

    fn from_str(text: &str) -> Result<Self, HierarchyError> {
        let mut parts = text.splitn(4, '_');
        let mut part = || parts.next().ok_or(HierarchyError::UnknownToken);
        let max_depth = part()?.parse().map_err(|_| HierarchyError::UnknownToken)?;
        let suggested_only = match part()? {
            "0" => false,
            "1" => true,
            _ => return Err(HierarchyError::UnknownToken),
        };
        let walk = part()?.to_owned();
        let last = RoomId::parse(part()?).map_err(|_| HierarchyError::UnknownToken)?;
        Ok(Self { max_depth, suggested_only, walk, last })
    }
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
            Some(token) => self.resume(token.parse()?, user, root, query).await?,
            None => Walk::begin(user, root, query.suggested_only, query.max_depth.unwrap_or(DEPTH_MAX)),
        };
        let limit = query.limit.unwrap_or(PAGE_ROOMS_MAX).clamp(1, PAGE_ROOMS_MAX);
        let deadline = Instant::now() + PAGE_TIME;
        let mut rooms: Vec<SpaceRoom> = Vec::new();
        while rooms.len() < limit {
            let deadline = (!rooms.is_empty()).then_some(deadline);
            let Some(room) = self.next_room(&mut walk, deadline).await? else { break };
            rooms.push(room);
        }
        walk.pending.retain(|step| !walk.shown.contains(&step.room_id));
        let is_over = walk.pending.is_empty() || walk.looked_at >= ROOMS_LOOKED_AT_MAX;
        let last = rooms.last().filter(|_| !is_over).map(|room| room.summary.room_id.clone());
        let next_batch = last.map(|last| {
            let (max_depth, suggested_only) = (walk.max_depth, walk.suggested_only);
            let token = PageToken { max_depth, suggested_only, walk: PageToken::digest(user, root), last }.to_string();
            self.walks.lock().put(token.clone(), Arc::new(walk));
            token
        });
        Ok(HierarchyPage { rooms, next_batch })
    }

    async fn resume(
        &self,
        token: PageToken,
        user: &UserId,
        root: &RoomId,
        query: &HierarchyQuery,
    ) -> Result<Walk, HierarchyError> {
        if token.walk != PageToken::digest(user, root) {
            return Err(HierarchyError::UnknownToken);
        }
        // Left off on a later page, they are as they were on the first.
        let is_other_depth = query.max_depth.is_some_and(|depth| depth.min(DEPTH_MAX) != token.max_depth);
        if is_other_depth || (query.suggested_only && !token.suggested_only) {
            return Err(HierarchyError::ChangedQuery);
        }
        let kept = self.walks.lock().get(&token.to_string()).cloned();
        if let Some(walk) = kept.filter(|walk| walk.user == user && walk.root == root) {
            return Ok((*walk).clone());
        }
        let mut walk = Walk::begin(user, root, token.suggested_only, token.max_depth);
        let deadline = Instant::now() + PAGE_TIME;
        while let Some(room) = self.next_room(&mut walk, Some(deadline)).await? {
            if room.summary.room_id == token.last {
                return Ok(walk);
            }
        }
        Err(HierarchyError::UnknownToken)
    }

    /// The next room of the walk that the user may see; `None`: it is over, or the time is up.
    async fn next_room(&self, walk: &mut Walk, deadline: Option<Instant>) -> Result<Option<SpaceRoom>, HierarchyError> {
        while walk.looked_at < ROOMS_LOOKED_AT_MAX && deadline.is_none_or(|deadline| Instant::now() <= deadline) {
            let Some(step) = walk.pending.pop() else { break };
            if walk.shown.contains(&step.room_id) {
                continue;
            }
            walk.looked_at += 1;
            let Some(found) = self.look(walk, &step).await? else {
                if step.depth == 0 {
                    return Err(HierarchyError::NotForUser);
                }
                continue;
            };
            walk.shown.insert(step.room_id);
            if step.depth < walk.max_depth {
                walk.descend(&found, step.depth + 1);
            }
            return Ok(Some(found.room));
        }
        Ok(None)
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
    fn begin(user: &UserId, root: &RoomId, suggested_only: bool, max_depth: u32) -> Self {
        Self {
            user: user.to_owned(),
            root: root.to_owned(),
            suggested_only,
            max_depth: max_depth.min(DEPTH_MAX),
            pending: vec![Step { room_id: root.to_owned(), via: Vec::new(), depth: 0, told: Told::Nothing }],
            shown: HashSet::new(),
            looked_at: 0,
        }
    }

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
