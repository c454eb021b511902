//! Who is typing where (client-server API, typing notifications). In memory only: nobody types across a restart.
//!
//! Each room has a version that grows with every change; `/sync` keeps the version it last told of. Versions start at the
//! clock's milliseconds, so that those of an earlier run are behind and a client's old token still works.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chappe_protocol::clock::Clock;
use chappe_store::{RoomNid, Store, StoreError};
use parking_lot::{Mutex, RwLock};
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    api::federation::transactions::edu::{Edu, TypingContent},
};
use tokio::sync::Notify;

use crate::edu::{VolatileEdus, is_joined, may_be_joined, scan_other_servers};

/// How long a client's word is taken for at most.
const TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// How long another server's word is taken for: it repeats it while the user types on.
const REMOTE_TIMEOUT_MS: u64 = 60_000;
/// How often other servers are told again that a user still types.
const REPEAT_MS: u64 = 40_000;
/// How long a room where nobody types is remembered, so that every client learns of the last change.
const QUIET_ROOM_KEPT_MS: u64 = 3_600_000;

/// Why a typing notice was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SetTypingError {
    #[error("you are not in this room")]
    NotJoined,
    #[error(transparent)]
    Store(#[from] StoreError),
}

type ChangeCallback = Box<dyn Fn(RoomNid) + Send + Sync>;

/// The typing users of all rooms.
pub struct Typing {
    store: Store,
    server_name: OwnedServerName,
    clock: Arc<dyn Clock>,
    edus: Arc<dyn VolatileEdus>,
    rooms: Mutex<HashMap<RoomNid, RoomTyping>>,
    next_version: AtomicU64,
    callbacks: RwLock<Vec<ChangeCallback>>,
    /// Told when a notice may end sooner than [`Typing::run`] thinks.
    sooner: Notify,
}

struct RoomTyping {
    room_id: OwnedRoomId,
    version: u64,
    changed_ms: u64,
    users: BTreeMap<OwnedUserId, Notice>,
}

struct Notice {
    ends_ms: u64,
    /// When other servers were last told; local users only.
    told_ms: u64,
}

impl Typing {
    pub fn new(store: Store, server_name: OwnedServerName, clock: Arc<dyn Clock>, edus: Arc<dyn VolatileEdus>) -> Self {
        let first_version = clock.now_ms();
        Self {
            store,
            server_name,
            clock,
            edus,
            rooms: Mutex::default(),
            next_version: AtomicU64::new(first_version),
            callbacks: RwLock::default(),
            sooner: Notify::new(),
        }
    }

    /// Calls `callback` with each room whose typing users change. It must only wake wakers.
    pub fn on_change(&self, callback: impl Fn(RoomNid) + Send + Sync + 'static) {
        self.callbacks.write().push(Box::new(callback));
    }

    /// The room's version and the users who type in it. Version 0: nobody has typed there lately.
    pub fn current(&self, room: RoomNid) -> (u64, Vec<OwnedUserId>) {
        let now_ms = self.clock.now_ms();
        let rooms = self.rooms.lock();
        rooms.get(&room).map_or((0, Vec::new()), |typing| {
            let users =
                typing.users.iter().filter(|(_, notice)| notice.ends_ms > now_ms).map(|(user_id, _)| user_id.clone());
            (typing.version, users.collect())
        })
    }

    /// The rooms whose version is newer than this.
    pub fn rooms_changed_since(&self, version: u64) -> Vec<RoomNid> {
        if self.version() <= version {
            return Vec::new();
        }
        let rooms = self.rooms.lock();
        rooms.iter().filter(|(_, typing)| typing.version > version).map(|(room, _)| *room).collect()
    }

    /// The newest version of any room: what a sync token starts from.
    pub fn version(&self) -> u64 {
        self.next_version.load(Ordering::SeqCst)
    }

    /// A local user types, for `timeout` at most unless they say so again: `PUT .../typing/{userId}`.
    pub fn start(&self, room_id: &RoomId, user_id: &UserId, timeout: Duration) -> Result<(), SetTypingError> {
        let room = self.check_joined(room_id, user_id)?;
        let now_ms = self.clock.now_ms();
        let timeout_ms = u64::try_from(timeout.min(TIMEOUT_MAX).as_millis()).unwrap_or(u64::MAX);
        let tell = self.set(room, room_id, user_id, now_ms.saturating_add(timeout_ms), now_ms);
        if tell {
            self.tell_servers(room, room_id, user_id, true);
        }
        Ok(())
    }

    /// A local user has stopped typing.
    pub fn stop(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), SetTypingError> {
        let room = self.check_joined(room_id, user_id)?;
        if self.unset(room, user_id) {
            self.tell_servers(room, room_id, user_id, false);
        }
        Ok(())
    }

    /// Takes an `m.typing` EDU. Believed only about the origin's own users, and only in rooms they are joined to.
    pub fn apply_edu(&self, origin: &ServerName, content: &TypingContent) -> Result<(), StoreError> {
        if content.user_id.server_name() != origin || origin == self.server_name {
            return Ok(());
        }
        let Some(room) = self.store.interner().get_room(&self.store, &content.room_id)? else { return Ok(()) };
        if !may_be_joined(&self.store, room, &content.user_id)? {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        if content.typing {
            self.set(room, &content.room_id, &content.user_id, now_ms.saturating_add(REMOTE_TIMEOUT_MS), now_ms);
        } else {
            self.unset(room, &content.user_id);
        }
        Ok(())
    }

    /// Ends notices when their time is over, for as long as the server runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            let sooner = self.sooner.notified();
            let next_ms = self.expire();
            match next_ms {
                Some(next_ms) => {
                    let pause = Duration::from_millis(next_ms.saturating_sub(self.clock.now_ms()));
                    // Whichever comes first, the next round looks at all notices again.
                    let _ = tokio::time::timeout(pause, sooner).await;
                }
                None => sooner.await,
            }
        }
    }

    /// Ends the notices whose time is over, and answers when the next one ends.
    fn expire(&self) -> Option<u64> {
        let now_ms = self.clock.now_ms();
        let mut ended = Vec::new();
        let next_ms = {
            let mut rooms = self.rooms.lock();
            for (room, typing) in rooms.iter_mut() {
                let over: Vec<OwnedUserId> = typing
                    .users
                    .iter()
                    .filter(|(_, notice)| notice.ends_ms <= now_ms)
                    .map(|(user_id, _)| user_id.clone())
                    .collect();
                if over.is_empty() {
                    continue;
                }
                typing.users.retain(|_, notice| notice.ends_ms > now_ms);
                typing.version = self.take_version();
                typing.changed_ms = now_ms;
                ended.push((*room, typing.room_id.clone(), over));
            }
            rooms.retain(|_, typing| {
                !typing.users.is_empty() || now_ms.saturating_sub(typing.changed_ms) < QUIET_ROOM_KEPT_MS
            });
            rooms.values().flat_map(|typing| typing.users.values()).map(|notice| notice.ends_ms).min()
        };
        for (room, room_id, users) in ended {
            for user_id in users.iter().filter(|user_id| user_id.server_name() == self.server_name) {
                self.tell_servers(room, &room_id, user_id, false);
            }
            self.changed(room);
        }
        next_ms
    }

    fn check_joined(&self, room_id: &RoomId, user_id: &UserId) -> Result<RoomNid, SetTypingError> {
        let room = self.store.interner().get_room(&self.store, room_id)?.ok_or(SetTypingError::NotJoined)?;
        if is_joined(&self.store, room, user_id)? { Ok(room) } else { Err(SetTypingError::NotJoined) }
    }

    /// True if other servers are to be told.
    fn set(&self, room: RoomNid, room_id: &RoomId, user_id: &UserId, ends_ms: u64, now_ms: u64) -> bool {
        let (started, tell) = {
            let mut rooms = self.rooms.lock();
            let typing = rooms.entry(room).or_insert_with(|| RoomTyping {
                room_id: room_id.to_owned(),
                version: 0,
                changed_ms: now_ms,
                users: BTreeMap::new(),
            });
            match typing.users.get_mut(user_id) {
                Some(notice) => {
                    notice.ends_ms = ends_ms;
                    let tell = now_ms.saturating_sub(notice.told_ms) >= REPEAT_MS;
                    if tell {
                        notice.told_ms = now_ms;
                    }
                    (false, tell)
                }
                None => {
                    typing.users.insert(user_id.to_owned(), Notice { ends_ms, told_ms: now_ms });
                    typing.version = self.take_version();
                    typing.changed_ms = now_ms;
                    (true, true)
                }
            }
        };
        self.sooner.notify_one();
        if started {
            self.changed(room);
        }
        tell
    }

    /// True if the user was typing.
    fn unset(&self, room: RoomNid, user_id: &UserId) -> bool {
        let stopped = {
            let mut rooms = self.rooms.lock();
            let Some(typing) = rooms.get_mut(&room) else { return false };
            let stopped = typing.users.remove(user_id).is_some();
            if stopped {
                typing.version = self.take_version();
                typing.changed_ms = self.clock.now_ms();
            }
            stopped
        };
        if stopped {
            self.changed(room);
        }
        stopped
    }

    fn take_version(&self) -> u64 {
        self.next_version.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn changed(&self, room: RoomNid) {
        self.callbacks.read().iter().for_each(|callback| callback(room));
    }

    fn tell_servers(&self, room: RoomNid, room_id: &RoomId, user_id: &UserId, typing: bool) {
        let servers = match scan_other_servers(&self.store, room, &self.server_name) {
            Ok(servers) => servers,
            Err(error) => {
                tracing::warn!(%error, "typing notice not sent to other servers");
                return;
            }
        };
        let edu = Edu::Typing(TypingContent::new(room_id.to_owned(), user_id.to_owned(), typing));
        for server in servers {
            self.edus.send_edu_volatile(&server, &edu);
        }
    }
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use ruma::{room_id, server_name, user_id};

    use super::*;
    use crate::ephemeral_tests::{SentEdus, join};

    struct Setup {
        typing: Typing,
        clock: Arc<ManualClock>,
        edus: Arc<SentEdus>,
        room: RoomNid,
    }

    async fn setup() -> Setup {
        let store = Store::in_memory();
        let room =
            join(&store, room_id!("!r:a.example"), &[user_id!("@alice:a.example"), user_id!("@bob:b.example")]).await;
        let clock = Arc::new(ManualClock::new(1_000_000));
        let edus = Arc::new(SentEdus::default());
        let typing = Typing::new(store, server_name!("a.example").to_owned(), clock.clone(), edus.clone());
        Setup { typing, clock, edus, room }
    }

    fn the_room() -> &'static RoomId {
        room_id!("!r:a.example")
    }

    fn alice() -> &'static UserId {
        user_id!("@alice:a.example")
    }

    fn bob() -> &'static UserId {
        user_id!("@bob:b.example")
    }

    #[tokio::test]
    async fn typing_raises_the_version_and_ends_by_itself() {
        let Setup { typing, clock, edus, room } = setup().await;
        assert_eq!(typing.current(room), (0, vec![]));
        typing.start(the_room(), alice(), Duration::from_secs(10)).unwrap();
        let (first, users) = typing.current(room);
        assert_eq!(users, [alice()]);
        assert!(first > 1_000_000);
        clock.advance(10_000);
        assert_eq!(typing.expire(), None);
        let (second, users) = typing.current(room);
        assert!(second > first);
        assert!(users.is_empty());
        assert_eq!(edus.take().len(), 2, "the other server hears of the start and of the end");
    }

    #[tokio::test]
    async fn repeated_notice_changes_nothing_for_clients() {
        let Setup { typing, clock, edus, room } = setup().await;
        typing.start(the_room(), alice(), Duration::from_secs(30)).unwrap();
        let before = typing.current(room);
        clock.advance(20_000);
        typing.start(the_room(), alice(), Duration::from_secs(30)).unwrap();
        assert_eq!(typing.current(room), before);
        assert_eq!(edus.take().len(), 1);
        clock.advance(25_000);
        typing.start(the_room(), alice(), Duration::from_secs(30)).unwrap();
        assert_eq!(edus.take().len(), 1, "other servers are reminded after a while");
    }

    #[tokio::test]
    async fn user_outside_the_room_cannot_type() {
        let Setup { typing, .. } = setup().await;
        let error = typing.start(the_room(), user_id!("@eve:a.example"), Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, SetTypingError::NotJoined));
        let error = typing.start(room_id!("!other:a.example"), alice(), Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, SetTypingError::NotJoined));
    }

    #[tokio::test]
    async fn edu_is_believed_only_about_the_origins_members() {
        let Setup { typing, room, .. } = setup().await;
        let content = |user: &UserId, typing| TypingContent::new(the_room().to_owned(), user.to_owned(), typing);
        typing.apply_edu(server_name!("c.example"), &content(bob(), true)).unwrap();
        typing.apply_edu(server_name!("b.example"), &content(user_id!("@stranger:b.example"), true)).unwrap();
        typing.apply_edu(server_name!("b.example"), &content(alice(), true)).unwrap();
        assert_eq!(typing.current(room), (0, vec![]));
        typing.apply_edu(server_name!("b.example"), &content(bob(), true)).unwrap();
        assert_eq!(typing.current(room).1, [bob()]);
        typing.apply_edu(server_name!("b.example"), &content(bob(), false)).unwrap();
        assert!(typing.current(room).1.is_empty());
    }

    #[tokio::test]
    async fn changes_call_the_callback() {
        let Setup { typing, room, .. } = setup().await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        typing.on_change(move |room| sink.lock().push(room));
        typing.start(the_room(), alice(), Duration::from_secs(10)).unwrap();
        typing.stop(the_room(), alice()).unwrap();
        typing.stop(the_room(), alice()).unwrap();
        assert_eq!(*seen.lock(), [room, room]);
    }
}
