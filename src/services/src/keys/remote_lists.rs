//! Device lists of remote users: cached while they share a room with us, kept up to date by their servers' EDUs, and fetched anew
//! when an update was missed.
//!
//! A missed update is remembered in the store until the list has been fetched. Who fetches: the update that shows the gap, the
//! next query, the next transaction of the server ([`Keys::spawn_retry_of`]), and [`Keys::run`] every few minutes.
//!
//! Spec: Server-Server API, Device Management.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chappe_store::{
    Batch, CommitError, Direction, StoreError,
    record::Json,
    tables::e2ee::{
        CROSS_SIGNING_KEYS, JsonObject, REMOTE_DEVICE_LISTS, REMOTE_DEVICES, RemoteDevice, RemoteDeviceListRecord,
        STALE_DEVICE_LISTS,
    },
};
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId, api::federation::device::get_devices::v1};
use serde::Deserialize;
use serde_json::Value;

use super::{
    FetchError, Keys, REMOTE_TIMEOUT_DEFAULT,
    cross_signing::{MASTER, SELF_SIGNING},
    device_keys::{cross_signing_key_of, is_keys_of, is_object_of},
    device_lists::queue_remote_list_changed,
    is_storable,
    sharing::shared_rooms_of_remote,
};

/// How often lists that are out of date are tried again while nothing is heard of their servers.
const RETRY_EVERY: Duration = Duration::from_secs(300);

/// How many devices of one remote user are kept.
const DEVICES_MAX: usize = 5_000;

/// An EDU that is not believed. It changes nothing, and is no reason to refuse its transaction.
#[derive(Debug, thiserror::Error)]
pub enum EduError {
    /// It speaks of a user of another server.
    #[error("the user is not of the server that sent this")]
    NotTheirs,
    #[error("malformed: {0}")]
    Malformed(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Why a remote device list could not be fetched. It stays marked as out of date.
#[derive(Debug, thiserror::Error)]
pub enum ResyncError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("the server's answer does not fit the question")]
    BadAnswer,
    #[error("no room is shared with the user any more")]
    NotShared,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// What the cache of a remote user's device list is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Complete: the user's server would have told us of any change.
    Fresh,
    /// A room is shared, so the list can be cached, but it has yet to be fetched.
    Outdated,
    /// No room is shared: nothing may be cached, because changes would not reach us.
    NotShared,
}

#[derive(Deserialize)]
struct DeviceListUpdate {
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    #[serde(default)]
    device_display_name: Option<String>,
    stream_id: u64,
    #[serde(default)]
    prev_id: Vec<u64>,
    #[serde(default)]
    deleted: Option<bool>,
    #[serde(default)]
    keys: Option<JsonObject>,
}

#[derive(Deserialize)]
struct SigningKeyUpdate {
    user_id: OwnedUserId,
    #[serde(default)]
    master_key: Option<ruma::serde::Raw<ruma::encryption::CrossSigningKey>>,
    #[serde(default)]
    self_signing_key: Option<ruma::serde::Raw<ruma::encryption::CrossSigningKey>>,
}

impl Keys {
    pub(super) fn freshness(&self, user: &UserId) -> Result<Freshness, StoreError> {
        let rooms = shared_rooms_of_remote(&self.store, &self.server_name, user)?;
        if rooms.is_empty() {
            return Ok(Freshness::NotShared);
        }
        let Some(record) = self.store.get(&REMOTE_DEVICE_LISTS, &user.to_owned())? else {
            return Ok(Freshness::Outdated);
        };
        // Between leaving the last shared room and joining the next a user's changes do not reach us.
        let shared_since_fetch = rooms.iter().any(|(_, joined_at)| joined_at.0 <= record.fetched_at);
        if shared_since_fetch && !self.is_stale(user)? { Ok(Freshness::Fresh) } else { Ok(Freshness::Outdated) }
    }

    /// Whether the cached device list of a remote user can be relied on.
    pub fn is_list_fresh(&self, user: &UserId) -> Result<bool, StoreError> {
        Ok(self.freshness(user)? == Freshness::Fresh)
    }

    fn is_stale(&self, user: &UserId) -> Result<bool, StoreError> {
        self.store.contains(&STALE_DEVICE_LISTS, &(user.server_name().to_owned(), user.to_owned()))
    }

    /// Takes `m.device_list_update`. When it shows that an earlier one was missed, the list is fetched anew in the background.
    pub async fn receive_device_list_update(&self, origin: &ServerName, content: &Value) -> Result<(), EduError> {
        let update = DeviceListUpdate::deserialize(content).map_err(|error| EduError::Malformed(error.to_string()))?;
        if update.user_id.server_name() != origin || self.is_local(&update.user_id) {
            return Err(EduError::NotTheirs);
        }
        if !is_storable(update.device_id.as_str()) {
            return Err(EduError::Malformed("device_id".to_owned()));
        }
        if update.keys.as_ref().is_some_and(|keys| !is_object_of(keys, &update.user_id, &update.device_id)) {
            return Err(EduError::Malformed("keys of another device".to_owned()));
        }
        let user = update.user_id.clone();
        let lock = self.remote_lock(&user);
        let _changing = lock.lock().await;
        if self.freshness(&user)? == Freshness::NotShared {
            self.note_pending_list(&user).await?;
            return self.forget_remote(&user).await;
        }
        // An update that follows none before it, of a list that nobody here has asked for since its user joined: its server introduces
        // it, or a first device has keys now. Local users were told by the join itself and have not asked since, so that telling them
        // again says nothing; the list is fetched when it is needed.
        if update.prev_id.is_empty() && self.freshness(&user)? == Freshness::Outdated && !self.is_stale(&user)? {
            return Ok(());
        }
        let record = self.store.get(&REMOTE_DEVICE_LISTS, &user)?;
        if let Some(record) = &record
            && record.stream_id == update.stream_id
            && !self.is_stale(&user)?
        {
            return Ok(());
        }
        let follows = |record: &RemoteDeviceListRecord| {
            !update.prev_id.is_empty() && update.prev_id.iter().all(|previous| *previous == record.stream_id)
        };
        match record.filter(follows) {
            Some(record) if self.freshness(&user)? == Freshness::Fresh => self.apply_update(update, record).await,
            _ => {
                self.mark_stale(&user).await?;
                self.spawn_resync(user);
                Ok(())
            }
        }
    }

    async fn apply_update(&self, update: DeviceListUpdate, mut record: RemoteDeviceListRecord) -> Result<(), EduError> {
        let user = update.user_id;
        let row = (user.clone(), update.device_id);
        let mut batch = Batch::new();
        match update.keys {
            Some(keys) if update.deleted != Some(true) => {
                let device = RemoteDevice { keys, display_name: update.device_display_name.map(bounded_name) };
                batch.put(&REMOTE_DEVICES, &row, &Json(device));
            }
            _ => batch.delete(&REMOTE_DEVICES, &row),
        }
        record.stream_id = update.stream_id;
        batch.put(&REMOTE_DEVICE_LISTS, &user, &record);
        queue_remote_list_changed(&self.store, &mut batch, &self.server_name, &user)?;
        self.store.commit(batch).await?;
        Ok(())
    }

    /// Takes `m.signing_key_update`.
    pub async fn receive_signing_key_update(&self, origin: &ServerName, content: &Value) -> Result<(), EduError> {
        let update = SigningKeyUpdate::deserialize(content).map_err(|error| EduError::Malformed(error.to_string()))?;
        let user = update.user_id;
        if user.server_name() != origin || self.is_local(&user) {
            return Err(EduError::NotTheirs);
        }
        let mut batch = Batch::new();
        for (usage, key) in [(MASTER, update.master_key), (SELF_SIGNING, update.self_signing_key)] {
            let Some(key) = key else { continue };
            let key = cross_signing_key_of(&key, &user).ok_or_else(|| EduError::Malformed(format!("{usage} key")))?;
            batch.put(&CROSS_SIGNING_KEYS, &(user.clone(), usage.to_owned()), &Json(key));
        }
        let lock = self.remote_lock(&user);
        let _changing = lock.lock().await;
        if self.freshness(&user)? == Freshness::NotShared {
            self.note_pending_list(&user).await?;
            return self.forget_remote(&user).await;
        }
        queue_remote_list_changed(&self.store, &mut batch, &self.server_name, &user)?;
        self.store.commit(batch).await?;
        Ok(())
    }

    /// Fetches a remote user's whole device list, unless somebody else has just done so.
    pub async fn resync(&self, user: &UserId) -> Result<(), ResyncError> {
        self.resync_within(user, REMOTE_TIMEOUT_DEFAULT).await
    }

    pub(super) async fn resync_within(&self, user: &UserId, timeout: Duration) -> Result<(), ResyncError> {
        let lock = self.remote_lock(user);
        let _fetching = lock.lock().await;
        match self.freshness(user)? {
            Freshness::Fresh => return Ok(()),
            Freshness::NotShared => return Err(ResyncError::NotShared),
            Freshness::Outdated => {}
        }
        let fetched_at = self.store.durable_position().0;
        let request = v1::Request::new(user.to_owned());
        let response = self.federation.fetch_devices(user.server_name(), request, timeout).await?;
        if response.user_id != user || response.devices.len() > DEVICES_MAX {
            return Err(ResyncError::BadAnswer);
        }

        let mut devices = BTreeMap::new();
        for device in response.devices {
            if !is_storable(device.device_id.as_str()) || !is_keys_of(&device.keys, user, &device.device_id) {
                continue;
            }
            let Ok(keys) = serde_json::from_str::<JsonObject>(device.keys.json().get()) else { continue };
            let display_name = device.device_display_name.map(bounded_name);
            devices.insert(device.device_id, RemoteDevice { keys, display_name });
        }
        let mut signing_keys = BTreeMap::new();
        for (usage, key) in [(MASTER, response.master_key), (SELF_SIGNING, response.self_signing_key)] {
            signing_keys
                .extend(key.and_then(|key| cross_signing_key_of(&key, user)).map(|key| (usage.to_owned(), key)));
        }
        let record = RemoteDeviceListRecord { stream_id: u64::from(response.stream_id), fetched_at };
        self.replace_cached(user, record, devices, signing_keys).await
    }

    async fn replace_cached(
        &self,
        user: &UserId,
        record: RemoteDeviceListRecord,
        devices: BTreeMap<OwnedDeviceId, RemoteDevice>,
        signing_keys: BTreeMap<String, JsonObject>,
    ) -> Result<(), ResyncError> {
        let owned = user.to_owned();
        let mut cached_devices = BTreeMap::new();
        for row in self.store.scan(&REMOTE_DEVICES, &(owned.clone(),), Direction::Forward) {
            let ((_, device), Json(cached)) = row?;
            cached_devices.insert(device, cached);
        }
        let mut cached_keys = BTreeMap::new();
        for row in self.store.scan(&CROSS_SIGNING_KEYS, &(owned.clone(),), Direction::Forward) {
            let ((_, usage), Json(cached)) = row?;
            cached_keys.insert(usage, cached);
        }

        let mut batch = Batch::new();
        for gone in cached_devices.keys().filter(|device| !devices.contains_key(*device)) {
            batch.delete(&REMOTE_DEVICES, &(owned.clone(), gone.clone()));
        }
        for gone in cached_keys.keys().filter(|usage| !signing_keys.contains_key(*usage)) {
            batch.delete(&CROSS_SIGNING_KEYS, &(owned.clone(), gone.clone()));
        }
        // Who asks for the first time has not been told anything that is wrong now.
        let was_known = self.store.contains(&REMOTE_DEVICE_LISTS, &owned)?;
        // An update was missed: clients are to know that there was one, whatever was in it.
        let was_missed = self.is_stale(user)?;
        let differs = devices != cached_devices || signing_keys != cached_keys;
        for (device, keys) in devices {
            batch.put(&REMOTE_DEVICES, &(owned.clone(), device), &Json(keys));
        }
        for (usage, key) in signing_keys {
            batch.put(&CROSS_SIGNING_KEYS, &(owned.clone(), usage), &Json(key));
        }
        batch.put(&REMOTE_DEVICE_LISTS, &owned, &record);
        batch.delete(&STALE_DEVICE_LISTS, &(user.server_name().to_owned(), owned));
        if was_missed || (differs && was_known) {
            queue_remote_list_changed(&self.store, &mut batch, &self.server_name, user)?;
        }
        self.store.commit(batch).await?;
        Ok(())
    }

    /// Remembers that a remote user's device list is out of date.
    pub(crate) async fn mark_stale(&self, user: &UserId) -> Result<(), EduError> {
        let row = (user.server_name().to_owned(), user.to_owned());
        if !self.store.contains(&STALE_DEVICE_LISTS, &row)? {
            let mut batch = Batch::new();
            batch.put(&STALE_DEVICE_LISTS, &row, &());
            self.store.commit(batch).await?;
        }
        Ok(())
    }

    /// Whether a remote user's device list is cached, and the cache does not hold this device.
    pub(crate) fn is_cached_without(&self, user: &UserId, device: &str) -> Result<bool, StoreError> {
        Ok(self.store.contains(&REMOTE_DEVICE_LISTS, &user.to_owned())?
            && !self.store.contains(&REMOTE_DEVICES, &(user.to_owned(), device.into()))?)
    }

    pub(crate) fn spawn_resync(&self, user: OwnedUserId) {
        let keys = self.clone();
        tokio::spawn(async move {
            if let Err(error) = keys.resync(&user).await {
                tracing::info!(user.id = %user, error = %error, "device list stays out of date");
            }
        });
    }

    /// Fetches the device lists that are known to be out of date, and gives a server up for this time when it does not answer.
    pub async fn retry_stale_lists(&self) -> Result<(), StoreError> {
        let mut stale: BTreeMap<OwnedServerName, Vec<OwnedUserId>> = BTreeMap::new();
        for row in self.store.scan(&STALE_DEVICE_LISTS, &(), Direction::Forward) {
            let ((server, user), ()) = row?;
            stale.entry(server).or_default().push(user);
        }
        let servers = stale.into_values().map(|users| self.retry_users(users));
        futures_util::future::join_all(servers).await;
        Ok(())
    }

    /// Fetches stale lists now and every few minutes, for as long as it is polled.
    pub async fn run(self) {
        loop {
            if let Err(error) = self.retry_stale_lists().await {
                tracing::error!(%error, "stale device lists cannot be read");
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Fetches the stale lists of one server in the background: for when it is heard of again.
    pub fn spawn_retry_of(&self, server: &ServerName) {
        let rows = self.store.scan(&STALE_DEVICE_LISTS, &(server.to_owned(),), Direction::Forward);
        match rows.map(|row| Ok(row?.0.1)).collect::<Result<Vec<_>, StoreError>>() {
            Ok(users) if users.is_empty() => {}
            Ok(users) => {
                let keys = self.clone();
                tokio::spawn(async move { keys.retry_users(users).await });
            }
            Err(error) => tracing::error!(%error, "stale device lists cannot be read"),
        }
    }

    async fn retry_users(&self, users: Vec<OwnedUserId>) {
        for user in users {
            match self.resync(&user).await {
                Ok(()) => {}
                Err(ResyncError::NotShared) => {
                    if let Err(error) = self.forget_remote(&user).await {
                        tracing::warn!(user.id = %user, error = %error, "cached device list could not be dropped");
                    }
                }
                Err(error) => {
                    tracing::debug!(user.id = %user, error = %error, "device list stays out of date");
                    if matches!(error, ResyncError::Fetch(_)) {
                        return;
                    }
                }
            }
        }
    }

    /// Drops what is cached of a user with whom no room is shared.
    async fn forget_remote(&self, user: &UserId) -> Result<(), EduError> {
        let owned = user.to_owned();
        let stale = (user.server_name().to_owned(), owned.clone());
        if !self.store.contains(&REMOTE_DEVICE_LISTS, &owned)? && !self.store.contains(&STALE_DEVICE_LISTS, &stale)? {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete(&REMOTE_DEVICE_LISTS, &owned);
        batch.delete(&STALE_DEVICE_LISTS, &stale);
        batch.delete_prefix(&REMOTE_DEVICES, &(owned.clone(),));
        for usage in [MASTER, SELF_SIGNING] {
            batch.delete(&CROSS_SIGNING_KEYS, &(owned.clone(), usage.to_owned()));
        }
        self.store.commit(batch).await?;
        Ok(())
    }

    /// The lock of a remote user's list. Locks that nobody holds are dropped on the way, so their number stays bounded.
    fn remote_lock(&self, user: &UserId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.remote_locks.lock();
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(user.to_owned()).or_default().clone()
    }
}

/// A display name of another server's making, cut to a length that can be shown.
fn bounded_name(name: String) -> String {
    name.chars().take(256).collect()
}
