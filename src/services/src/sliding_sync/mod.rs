//! Simplified sliding sync: the client looks at windows on its list of rooms, and is told of the rooms in them.
//!
//! A *connection* ([`connection`]) remembers, across restarts, what it has told of each room: a room is told in full when it first comes into a
//! window, and from then on what changes. A client's `pos` is the number of an answer and the positions it was read up to. Rooms are
//! read with the readers of [`crate::sync`]; waiting goes through the same waiters. Presence is not told. What is unread
//! [`crate::push::unread`] counts.
//!
//! Start at [`SlidingSync::sync`], then [`lists`] and [`room`].
//!
//! Spec: MSC4186.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chappe_protocol::clock::Clock;
use chappe_rooms::RoomError;
use chappe_store::{
    CommitError, Direction, Position, RoomNid, StoreError,
    tables::{events::TIMELINE, sliding_sync::SentRoom},
};
use ruma::{DeviceId, OwnedDeviceId, OwnedRoomId, OwnedUserId, UserId, presence::PresenceState};
use tokio::time::Instant;

use self::{
    connection::{Changes, ConnectionKey, Connections, Told},
    facts::Facts,
    lists::UserRooms,
    request::SlidingSyncRequest,
    response::SlidingSyncResponse,
};
use crate::{
    sync::{
        SyncSources, lazy_members::LazyMembers, state::root_at, summary::Summaries, token::SyncToken, waiters::Activity,
    },
    thread_subscriptions::ThreadSubscriptions,
};

mod connection;
mod extensions;
mod facts;
mod lists;
pub mod request;
mod required_state;
pub mod response;
mod room;
pub mod stable;

/// The longest a poll may wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 60);

/// Who verifies somebody does so in a room of this many.
const MEMBERS_OF_PRIVATE_ROOM: u64 = 2;

/// How long the connection for encryption is left waiting then, so that the client has dealt with what the other one told it.
const PRIVATE_ROOM_PAUSE: Duration = Duration::from_millis(300);

/// How often old connections are looked for.
const CLEANING_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, thiserror::Error)]
pub enum SlidingSyncError {
    /// The client must begin the connection anew.
    #[error("Unknown position")]
    UnknownPos,
    /// The client's fault.
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The reading was broken off.
    #[error("the answer could not be read: {0}")]
    Aborted(String),
}

/// Answers sliding sync.
pub struct SlidingSync {
    sources: SyncSources,
    thread_subscriptions: ThreadSubscriptions,
    connections: Connections,
    lazy_members: LazyMembers,
    summaries: Summaries,
    facts: Facts,
}

/// One reading: who asks, from where and up to where.
struct Reading<'a> {
    service: &'a SlidingSync,
    sources: &'a SyncSources,
    request: &'a SlidingSyncRequest,
    user: &'a UserId,
    device: &'a DeviceId,
    connection_device: OwnedDeviceId,
    told: &'a Told,
    since: Option<SyncToken>,
    /// Everything is read up to here. It is durable.
    to: Position,
    ignored: HashSet<OwnedUserId>,
    /// The rooms that the user says are direct chats.
    direct: HashSet<OwnedRoomId>,
}

/// One answer, and what comes of it.
struct Answer {
    response: SlidingSyncResponse,
    changes: Changes,
    /// It is given also if it tells nothing.
    is_due: bool,
}

/// Who asks, and what.
struct Asked {
    user: OwnedUserId,
    device: OwnedDeviceId,
    request: SlidingSyncRequest,
    told: Told,
    since: Option<SyncToken>,
}

impl SlidingSync {
    /// The sources are those of `/sync`, which sees to it that typing wakes polls.
    pub fn new(sources: SyncSources, thread_subscriptions: ThreadSubscriptions, clock: Arc<dyn Clock>) -> Self {
        Self {
            connections: Connections::new(sources.rooms.store().clone(), clock),
            sources,
            thread_subscriptions,
            lazy_members: LazyMembers::default(),
            summaries: Summaries::default(),
            facts: Facts::default(),
        }
    }

    /// Answers what the connection has not been told, waiting for something up to the request's timeout.
    pub async fn sync(
        self: &Arc<Self>,
        user: &UserId,
        device: &DeviceId,
        request: SlidingSyncRequest,
    ) -> Result<SlidingSyncResponse, SlidingSyncError> {
        request.check()?;
        let key = ConnectionKey::new(user, device, request.connection_id());
        let (told, since) = match &request.pos {
            Some(pos) => {
                let (number, since) = parse_pos(pos).ok_or(SlidingSyncError::UnknownPos)?;
                if since.position > self.sources.waiters.position() {
                    return Err(SlidingSyncError::UnknownPos);
                }
                (self.connections.get_told(&key, number)?, Some(since))
            }
            None => (Told::default(), None),
        };
        let presence = request.set_presence.clone().unwrap_or(PresenceState::Online);
        let _presence = self.sources.presence.begin_sync(user, &presence)?;
        let connection_device = room::connection_device(device, request.connection_id());
        self.lazy_members.begin(user, &connection_device, since.map(|since| since.position));
        let asked = Arc::new(Asked { user: user.to_owned(), device: device.to_owned(), request, told, since });
        self.acknowledge(&asked)?;
        let Answer { mut response, changes, .. } = self.read_or_wait(&asked).await?;
        let number = self.connections.commit(&key, &asked.told, changes).await?;
        response.pos = format!("{number}-{}", response.pos);
        response.txn_id.clone_from(&asked.request.txn_id);
        Ok(response)
    }

    /// Deletes connections that have not been used for long, now and then, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            if let Err(error) = self.connections.delete_old().await {
                tracing::warn!(%error, "old connections of sliding sync not deleted yet");
            }
            tokio::time::sleep(CLEANING_INTERVAL).await;
        }
    }

    async fn read_or_wait(self: &Arc<Self>, asked: &Arc<Asked>) -> Result<Answer, SlidingSyncError> {
        if asked.since.is_none() {
            let (service, asked) = (self.clone(), asked.clone());
            let reading = tokio::task::spawn_blocking(move || service.read(&asked));
            return reading.await.map_err(|error| SlidingSyncError::Aborted(error.to_string()))?;
        }
        let timeout = Duration::from_millis(asked.request.timeout.unwrap_or(0)).min(TIMEOUT_MAX);
        let deadline = Instant::now() + timeout;
        let counts = || self.sources.devices.get_key_counts(&asked.user, &asked.device);
        let counts_at_start = counts()?;
        let mut has_paused = false;
        loop {
            // Before reading: what happens after the reading began is not overlooked.
            let waiter = match timeout.is_zero() {
                false => {
                    let rooms = self.sources.joined_rooms.get(&asked.user)?;
                    Some(self.sources.waiters.register(&asked.user, rooms))
                }
                true => None,
            };
            let answer = self.read(asked)?;
            let is_empty = answer.response.rooms.is_empty() && answer.response.extensions.is_empty();
            if is_empty && answer.is_due && !has_paused && !timeout.is_zero() {
                has_paused = true;
                tokio::time::sleep(PRIVATE_ROOM_PAUSE.min(timeout)).await;
                continue;
            }
            let may_wait = is_empty && !answer.is_due;
            let Some(waiter) = waiter.filter(|_| may_wait && counts().is_ok_and(|counts| counts == counts_at_start))
            else {
                return Ok(answer);
            };
            let woken = tokio::time::timeout_at(deadline, waiter.woken()).await;
            if woken.is_err() || self.sources.waiters.is_closed() {
                return Ok(answer);
            }
        }
    }

    /// The messages that the device says it has are deleted.
    fn acknowledge(&self, asked: &Asked) -> Result<(), SlidingSyncError> {
        if asked.request.extensions.to_device.enabled != Some(true) {
            return Ok(());
        }
        let Some(since) = extensions::to_device_since(&asked.request, self.sources.waiters.position())? else {
            return Ok(());
        };
        Ok(self.sources.devices.acknowledge(&asked.user, &asked.device, since)?)
    }

    fn reading<'a>(&'a self, asked: &'a Asked) -> Result<Reading<'a>, StoreError> {
        Ok(Reading {
            service: self,
            sources: &self.sources,
            request: &asked.request,
            user: &asked.user,
            device: &asked.device,
            connection_device: room::connection_device(&asked.device, asked.request.connection_id()),
            told: &asked.told,
            since: asked.since,
            to: self.sources.waiters.position(),
            ignored: self.sources.account_data.get_ignored_users(&asked.user)?,
            direct: self.read_direct(&asked.user)?,
        })
    }

    fn read_direct(&self, user: &UserId) -> Result<HashSet<OwnedRoomId>, StoreError> {
        let content = self.sources.account_data.get(user, None, "m.direct")?;
        let content: BTreeMap<String, serde_json::Value> =
            content.and_then(|content| serde_json::from_str(&content).ok()).unwrap_or_default();
        let rooms = content.values().filter_map(|rooms| rooms.as_array()).flatten();
        Ok(rooms.filter_map(|room| OwnedRoomId::try_from(room.as_str()?).ok()).collect())
    }

    /// Reads one answer, as of now; its `pos` is without the number.
    fn read(&self, asked: &Asked) -> Result<Answer, SlidingSyncError> {
        // Before what it is the version of is read: what changes meanwhile is told twice rather than never.
        let typing = self.sources.typing.version();
        let reading = self.reading(asked)?;
        let next = SyncToken { position: reading.to, typing, presence: 0, to_device: reading.to };
        let mut response = SlidingSyncResponse { pos: next.to_string(), ..SlidingSyncResponse::default() };
        let mut changes = Changes::default();
        let rooms = reading.read_user_rooms()?;
        let (lists, wanted) = reading.read_lists(&rooms)?;
        response.lists = lists;
        let mut shown = BTreeMap::new();
        for (nid, wanted) in &wanted {
            let Some(room) = rooms.get(nid) else { continue };
            let answer = reading.read_room(*nid, room, wanted)?;
            if let Some(config) = answer.config {
                changes.configs.insert(config.hash(), config);
            }
            if let Some(sent) = answer.sent {
                changes.rooms.insert(*nid, sent);
            }
            if let Some(mut section) = answer.section {
                section.membership = Some(room.membership.membership.clone());
                section.lists.clone_from(&wanted.lists);
                response.rooms.insert(room.id.clone(), section);
            }
            shown.insert(*nid, answer.shown);
        }
        reading.note_untold(&wanted, &mut changes);
        let told = extensions::Told { rooms: &rooms, wanted: &wanted, shown: &shown };
        response.extensions = reading.read_extensions(&told)?;
        let is_due = asked.request.is_for_encryption_only() && reading.is_private_room_busy(&rooms)?;
        Ok(Answer { response, changes, is_due })
    }
}

impl Reading<'_> {
    /// Whether there are new events in a room for two.
    ///
    /// Two people verify each other in such a room. What a step of that asks of a client is sent when its connection for encryption is
    /// answered, although it learns of the step by another one, which is answered at once.
    fn is_private_room_busy(&self, rooms: &UserRooms) -> Result<bool, StoreError> {
        let Some(since) = self.since else { return Ok(false) };
        let joined = rooms.iter().filter(|(_, room)| room.is_joined()).map(|(nid, _)| *nid);
        for nid in self.sources.waiters.active_rooms(joined, since.position) {
            let new = (nid, since.position.next());
            let store = self.sources.rooms.store();
            let mut events = store.scan_range(&TIMELINE, &new, &(nid, self.to.next()), Direction::Forward);
            if events.next().transpose()?.is_none() {
                continue;
            }
            let root = root_at(&self.sources.rooms, nid, self.to)?;
            if self.service.summaries.get(&self.sources.rooms, nid, root)?.joined <= MEMBERS_OF_PRIVATE_ROOM {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn user_activity(&self) -> Activity {
        self.since.map_or(Activity::Possible, |since| self.sources.waiters.user_activity(self.user, since.position))
    }

    /// Whether something may have happened in a room after a position.
    fn is_active(&self, room: RoomNid, from: Position) -> bool {
        !self.sources.waiters.active_rooms([room], from).is_empty()
    }

    /// Rooms that were up to date, are out of all windows now, and of which something is not told: up to where they were.
    fn note_untold(&self, wanted: &BTreeMap<RoomNid, lists::Wanted>, changes: &mut Changes) {
        let Some(since) = self.since else { return };
        let left_out = self.told.rooms.iter().filter(|(nid, sent)| sent.up_to.is_none() && !wanted.contains_key(nid));
        let left_out: BTreeMap<RoomNid, &SentRoom> = left_out.map(|(nid, sent)| (*nid, sent)).collect();
        for nid in self.sources.waiters.active_rooms(left_out.keys().copied(), since.position) {
            if let Some(sent) = left_out.get(&nid) {
                changes.rooms.insert(nid, Some(SentRoom { up_to: Some(since.position.0), ..(*sent).clone() }));
            }
        }
    }
}

/// A position that a client comes with: the number of an answer, and a token of where that was read up to.
fn parse_pos(pos: &str) -> Option<(u64, SyncToken)> {
    let (number, token) = pos.split_once('-')?;
    Some((number.parse().ok()?, token.parse().ok()?))
}

#[cfg(test)]
mod tests;
