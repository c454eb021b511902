//! Who is online (client-server API, presence). The live state is in memory; what a local user last set by hand is kept too.
//!
//! Turned off, everybody is offline and nothing is sent or believed. Each change gets a version; `/sync` keeps the one it last
//! told of. Versions start at the clock's milliseconds, so that those of an earlier run are behind.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, CommitError, Direction, RoomNid, Store, StoreError,
    tables::{
        presence::{PRESENCE, PresenceRecord},
        rooms::USER_ROOMS,
    },
};
use parking_lot::{Mutex, RwLock};
use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UInt, UserId,
    api::federation::transactions::edu::{Edu, PresenceContent, PresenceUpdate},
    presence::PresenceState,
};

use crate::edu::{VolatileEdus, has_other_servers, is_joined, scan_other_servers};

/// A user who has been idle this long is `unavailable`.
const IDLE_AFTER_MS: u64 = 5 * 60_000;
/// A user without a running sync is `offline` after this time.
const OFFLINE_AFTER_MS: u64 = 30_000;
/// Within this time of their last deed a user is currently active.
const ACTIVE_MS: u64 = 60_000;
/// A remote user whose server is silent this long is `offline`.
const REMOTE_SILENT_AFTER_MS: u64 = 30 * 60_000;
/// How many remote users' presence is remembered.
const REMOTE_USERS_MAX: usize = 50_000;
/// How often [`Presence::run`] looks for users whose time is over.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Up to how many rooms are looked into one by one for a local user, rather than to go through the user's own.
const POINT_READS_MAX: usize = 8;
const STATUS_MSG_BYTES_MAX: usize = 4096;

/// A user's presence at one instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    pub user_id: OwnedUserId,
    pub state: PresenceState,
    pub status_msg: Option<String>,
    pub last_active_ago_ms: Option<u64>,
    pub currently_active: bool,
}

/// Why presence cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum GetPresenceError {
    /// The two share no room.
    #[error("you may not see this user's presence")]
    Forbidden,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why presence was not set.
#[derive(Debug, thiserror::Error)]
pub enum SetPresenceError {
    #[error("the status message is longer than {STATUS_MSG_BYTES_MAX} bytes")]
    TooLong,
    #[error("presence must be online, unavailable or offline")]
    UnknownState,
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<StoreError> for SetPresenceError {
    fn from(error: StoreError) -> Self {
        Self::Commit(error.into())
    }
}

type ChangeCallback = Box<dyn Fn(&UserId, &[RoomNid]) + Send + Sync>;

/// The presence of local users and of those they share rooms with.
pub struct Presence {
    store: Store,
    server_name: OwnedServerName,
    clock: Arc<dyn Clock>,
    edus: Arc<dyn VolatileEdus>,
    enabled: bool,
    users: Mutex<HashMap<OwnedUserId, Live>>,
    next_version: AtomicU64,
    callbacks: RwLock<Vec<ChangeCallback>>,
}

#[derive(Clone)]
struct Live {
    state: PresenceState,
    status_msg: Option<String>,
    last_active_ms: u64,
    currently_active: bool,
    version: u64,
    /// Remote users: when their server last spoke. Local users: when their last sync ended.
    heard_ms: u64,
    /// Local users: syncs under way.
    syncs: u32,
}

impl Live {
    fn snapshot(&self, user_id: &UserId, now_ms: u64) -> Snapshot {
        Snapshot {
            user_id: user_id.to_owned(),
            state: self.state.clone(),
            status_msg: self.status_msg.clone(),
            last_active_ago_ms: (self.last_active_ms > 0).then(|| now_ms.saturating_sub(self.last_active_ms)),
            currently_active: self.currently_active && self.state == PresenceState::Online,
        }
    }
}

/// A sync under way; its user counts as connected until it is dropped.
pub struct SyncGuard {
    presence: Arc<Presence>,
    user_id: OwnedUserId,
}

impl Drop for SyncGuard {
    fn drop(&mut self) {
        if let Some(live) = self.presence.users.lock().get_mut(&self.user_id) {
            live.syncs = live.syncs.saturating_sub(1);
            live.heard_ms = self.presence.clock.now_ms();
        }
    }
}

impl Presence {
    pub fn new(
        store: Store,
        server_name: OwnedServerName,
        clock: Arc<dyn Clock>,
        edus: Arc<dyn VolatileEdus>,
        enabled: bool,
    ) -> Self {
        let first_version = clock.now_ms();
        Self {
            store,
            server_name,
            clock,
            edus,
            enabled,
            users: Mutex::default(),
            next_version: AtomicU64::new(first_version),
            callbacks: RwLock::default(),
        }
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Calls `callback` with each user whose presence changes, and the rooms of that user that this server knows. It must only
    /// wake wakers.
    pub fn on_change(&self, callback: impl Fn(&UserId, &[RoomNid]) + Send + Sync + 'static) {
        self.callbacks.write().push(Box::new(callback));
    }

    /// The version of the newest change: what a sync token starts from.
    pub fn version(&self) -> u64 {
        self.next_version.load(Ordering::SeqCst)
    }

    /// A local user sets their presence: `PUT /_matrix/client/v3/presence/{userId}/status`.
    pub async fn set(
        &self,
        user_id: &UserId,
        state: PresenceState,
        status_msg: Option<String>,
    ) -> Result<(), SetPresenceError> {
        check_state(&state).map_err(|()| SetPresenceError::UnknownState)?;
        if status_msg.as_ref().is_some_and(|text| text.len() > STATUS_MSG_BYTES_MAX) {
            return Err(SetPresenceError::TooLong);
        }
        if !self.enabled {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        let record =
            PresenceRecord { state: state.to_string(), status_msg: status_msg.clone(), last_active_ms: now_ms };
        let mut batch = Batch::new();
        batch.put(&PRESENCE, &user_id.to_owned(), &record);
        self.store.commit(batch).await?;
        self.change_local(user_id, |live| {
            live.currently_active = state == PresenceState::Online;
            live.state = state;
            live.status_msg = status_msg;
            live.last_active_ms = now_ms;
            live.heard_ms = now_ms;
        })?;
        Ok(())
    }

    /// A local user's sync begins. `state` is its `set_presence`; `offline` leaves the presence alone.
    pub fn begin_sync(
        self: &Arc<Self>,
        user_id: &UserId,
        state: &PresenceState,
    ) -> Result<Option<SyncGuard>, StoreError> {
        if !self.enabled || *state == PresenceState::Offline || check_state(state).is_err() {
            return Ok(None);
        }
        let now_ms = self.clock.now_ms();
        self.change_local(user_id, |live| {
            live.syncs = live.syncs.saturating_add(1);
            live.heard_ms = now_ms;
            // `unavailable` is what a client says that runs in the background: it does not take back what the user set.
            if *state == PresenceState::Online {
                live.last_active_ms = now_ms;
            }
            live.currently_active = *state == PresenceState::Online;
            live.state = state.clone();
        })?;
        Ok(Some(SyncGuard { presence: self.clone(), user_id: user_id.to_owned() }))
    }

    /// A user's presence, for somebody who shares a room with them: `GET /_matrix/client/v3/presence/{userId}/status`.
    pub fn get(&self, viewer: &UserId, user_id: &UserId) -> Result<Snapshot, GetPresenceError> {
        if viewer != user_id && !self.is_in_any(user_id, &self.scan_joined(viewer).collect::<Result<_, _>>()?)? {
            return Err(GetPresenceError::Forbidden);
        }
        let now_ms = self.clock.now_ms();
        if !self.enabled {
            return Ok(offline(user_id, None));
        }
        if let Some(live) = self.users.lock().get(user_id) {
            return Ok(live.snapshot(user_id, now_ms));
        }
        // Not seen since the start: offline, with the words they last left.
        let kept = self.store.get(&PRESENCE, &user_id.to_owned())?;
        let ago_ms = kept.as_ref().map(|record| now_ms.saturating_sub(record.last_active_ms));
        Ok(Snapshot { last_active_ago_ms: ago_ms, ..offline(user_id, kept.and_then(|record| record.status_msg)) })
    }

    /// What changed after `version` for users who share a room with the viewer, the viewer included.
    pub fn changed_since(&self, viewer: &UserId, version: u64) -> Result<Vec<Snapshot>, StoreError> {
        if !self.enabled || self.version() <= version {
            return Ok(Vec::new());
        }
        let now_ms = self.clock.now_ms();
        let changed: Vec<(OwnedUserId, Live)> = {
            let users = self.users.lock();
            users
                .iter()
                .filter(|(_, live)| live.version > version)
                .map(|(user_id, live)| (user_id.clone(), live.clone()))
                .collect()
        };
        let mut snapshots = Vec::new();
        let rooms: HashSet<RoomNid> =
            if changed.is_empty() { HashSet::new() } else { self.scan_joined(viewer).collect::<Result<_, _>>()? };
        for (user_id, live) in changed {
            if user_id == viewer || self.is_in_any(&user_id, &rooms)? {
                snapshots.push(live.snapshot(&user_id, now_ms));
            }
        }
        Ok(snapshots)
    }

    /// Takes an `m.presence` EDU. Believed only about the origin's own users.
    pub fn apply_edu(&self, origin: &ServerName, content: &PresenceContent) {
        if !self.enabled || origin == self.server_name {
            return;
        }
        let now_ms = self.clock.now_ms();
        for update in &content.push {
            let words_fit = update.status_msg.as_ref().is_none_or(|text| text.len() <= STATUS_MSG_BYTES_MAX);
            if update.user_id.server_name() != origin || check_state(&update.presence).is_err() || !words_fit {
                continue;
            }
            let last_active_ms = now_ms.saturating_sub(u64::from(update.last_active_ago));
            {
                let mut users = self.users.lock();
                if !users.contains_key(&update.user_id) && users.len() >= REMOTE_USERS_MAX {
                    continue;
                }
                users.insert(
                    update.user_id.clone(),
                    Live {
                        state: update.presence.clone(),
                        status_msg: update.status_msg.clone(),
                        last_active_ms,
                        currently_active: update.currently_active,
                        version: self.take_version(),
                        heard_ms: now_ms,
                        syncs: 0,
                    },
                );
            }
            self.changed(&update.user_id);
        }
    }

    /// Turns idle users `unavailable` and absent ones `offline`, for as long as the server runs.
    pub async fn run(self: Arc<Self>) {
        if !self.enabled {
            return;
        }
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            self.expire();
        }
    }

    fn expire(&self) {
        let now_ms = self.clock.now_ms();
        let mut changed = Vec::new();
        {
            let mut users = self.users.lock();
            for (user_id, live) in users.iter_mut() {
                let local = user_id.server_name() == self.server_name;
                let next = next_state(live, local, now_ms);
                let active = live.currently_active
                    && next == PresenceState::Online
                    && now_ms.saturating_sub(live.last_active_ms) < ACTIVE_MS;
                if next != live.state || (local && active != live.currently_active) {
                    live.state = next;
                    live.currently_active = active;
                    live.version = self.take_version();
                    changed.push((user_id.clone(), local, live.clone()));
                }
            }
            // Remote users who went offline long ago are forgotten: every waiting client has been told.
            users.retain(|user_id, live| {
                user_id.server_name() == self.server_name
                    || live.state != PresenceState::Offline
                    || now_ms.saturating_sub(live.heard_ms) < 2 * REMOTE_SILENT_AFTER_MS
            });
        }
        for (user_id, local, live) in changed {
            if local {
                self.tell_servers(&user_id, &live);
            }
            self.changed(&user_id);
        }
    }

    fn change_local(&self, user_id: &UserId, change: impl FnOnce(&mut Live)) -> Result<(), StoreError> {
        let known = self.users.lock().contains_key(user_id);
        let kept = if known { None } else { self.store.get(&PRESENCE, &user_id.to_owned())? };
        let changed = {
            let mut users = self.users.lock();
            let live = users.entry(user_id.to_owned()).or_insert_with(|| Live {
                state: PresenceState::Offline,
                status_msg: kept.as_ref().and_then(|record| record.status_msg.clone()),
                last_active_ms: kept.as_ref().map_or(0, |record| record.last_active_ms),
                currently_active: false,
                version: 0,
                heard_ms: 0,
                syncs: 0,
            });
            let before = (live.state.clone(), live.status_msg.clone(), live.currently_active);
            change(live);
            let changed = before != (live.state.clone(), live.status_msg.clone(), live.currently_active);
            changed.then(|| {
                live.version = self.take_version();
                live.clone()
            })
        };
        if let Some(live) = changed {
            self.tell_servers(user_id, &live);
            self.changed(user_id);
        }
        Ok(())
    }

    fn take_version(&self) -> u64 {
        self.next_version.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn changed(&self, user_id: &UserId) {
        let callbacks = self.callbacks.read();
        if callbacks.is_empty() {
            return;
        }
        let rooms = match self.scan_rooms(user_id) {
            Ok(rooms) => rooms,
            Err(error) => {
                tracing::warn!(%error, "presence change told to nobody");
                return;
            }
        };
        callbacks.iter().for_each(|callback| callback(user_id, &rooms));
    }

    /// The rooms that a user, local or not, is joined to, as far as this server knows.
    fn scan_rooms(&self, user_id: &UserId) -> Result<Vec<RoomNid>, StoreError> {
        if user_id.server_name() == self.server_name {
            return self.scan_joined(user_id).collect();
        }
        let mut rooms = Vec::new();
        let server = user_id.server_name().to_owned();
        for row in self.store.scan(&chappe_store::tables::rooms::SERVER_ROOMS, &(server,), Direction::Forward) {
            let ((_, room), ()) = row?;
            if is_joined(&self.store, room, user_id)? {
                rooms.push(room);
            }
        }
        Ok(rooms)
    }

    /// The rooms that a local user is joined to.
    fn scan_joined(&self, user_id: &UserId) -> impl Iterator<Item = Result<RoomNid, StoreError>> + '_ {
        let rows = self.store.scan(&USER_ROOMS, &(user_id.to_owned(),), Direction::Forward);
        rows.filter_map(|row| match row {
            Ok(((_, room), member)) => (member.value.membership == "join").then_some(Ok(room)),
            Err(error) => Some(Err(error)),
        })
    }

    /// Whether a user, local or not, is joined to any of these rooms. Mostly the first one looked at says so.
    fn is_in_any(&self, user_id: &UserId, rooms: &HashSet<RoomNid>) -> Result<bool, StoreError> {
        if rooms.len() > POINT_READS_MAX && user_id.server_name() == self.server_name {
            for room in self.scan_joined(user_id) {
                if rooms.contains(&room?) {
                    return Ok(true);
                }
            }
            return Ok(false);
        }
        for room in rooms {
            if is_joined(&self.store, *room, user_id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The other servers in the rooms of a local user.
    fn scan_servers_to_tell(&self, user_id: &UserId) -> Result<BTreeSet<OwnedServerName>, StoreError> {
        let mut servers = BTreeSet::new();
        if has_other_servers(&self.store, &self.server_name)? {
            for room in self.scan_joined(user_id) {
                servers.extend(scan_other_servers(&self.store, room?, &self.server_name)?);
            }
        }
        Ok(servers)
    }

    fn tell_servers(&self, user_id: &UserId, live: &Live) {
        let servers = match self.scan_servers_to_tell(user_id) {
            Ok(servers) => servers,
            Err(error) => {
                tracing::warn!(%error, "presence not sent to other servers");
                return;
            }
        };
        let ago_ms = self.clock.now_ms().saturating_sub(live.last_active_ms);
        let mut update = PresenceUpdate::new(user_id.to_owned(), live.state.clone(), UInt::new_saturating(ago_ms));
        update.status_msg = live.status_msg.clone();
        update.currently_active = live.currently_active;
        let edu = Edu::Presence(PresenceContent::new(vec![update]));
        for server in servers {
            self.edus.send_edu_volatile(&server, &edu);
        }
    }
}

fn next_state(live: &Live, local: bool, now_ms: u64) -> PresenceState {
    if live.state == PresenceState::Offline {
        return PresenceState::Offline;
    }
    let silent_ms = now_ms.saturating_sub(live.heard_ms);
    let gone =
        if local { live.syncs == 0 && silent_ms >= OFFLINE_AFTER_MS } else { silent_ms >= REMOTE_SILENT_AFTER_MS };
    if gone {
        return PresenceState::Offline;
    }
    let idle = now_ms.saturating_sub(live.last_active_ms) >= IDLE_AFTER_MS;
    if local && live.state == PresenceState::Online && idle { PresenceState::Unavailable } else { live.state.clone() }
}

fn offline(user_id: &UserId, status_msg: Option<String>) -> Snapshot {
    Snapshot {
        user_id: user_id.to_owned(),
        state: PresenceState::Offline,
        status_msg,
        last_active_ago_ms: None,
        currently_active: false,
    }
}

fn check_state(state: &PresenceState) -> Result<(), ()> {
    match state {
        PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline => Ok(()),
        _ => Err(()),
    }
}

#[cfg(test)]
mod tests;
