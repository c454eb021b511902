//! Devices' identity keys: uploaded by their owners, queried by everyone.
//!
//! Spec: Client-Server API, Device keys; Server-Server API, End-to-End Encryption.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chappe_store::record::Json;
use chappe_store::{
    Batch, CommitError, Direction, Domain, Store, StoreError, Topic,
    tables::{
        accounts::DEVICES,
        e2ee::{CROSS_SIGNING_KEYS, DEVICE_KEYS, DEVICE_LIST_STREAM, JsonObject, KEY_SIGNATURES, REMOTE_DEVICES},
    },
};
use futures_util::future::join_all;
use ruma::{
    DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedServerName, OwnedUserId, UInt, UserId,
    api::{
        client::keys::get_keys::v3,
        federation::{
            device::get_devices::v1::{Response as UserDevices, UserDevice},
            keys::get_keys::v1,
        },
    },
    encryption::{CrossSigningKey, DeviceKeys, OneTimeKey},
    serde::Raw,
};
use serde_json::Value;

use crate::guarded::commit_guarded;

use super::{
    Keys, KeysError, REMOTE_TIMEOUT_DEFAULT, REMOTE_TIMEOUT_MAX, by_server,
    cross_signing::{MASTER, SELF_SIGNING, USER_SIGNING, public_key},
    device_lists::{DeviceChange, queue_device_changes},
    failure_json, one_time_keys,
    remote_lists::Freshness,
    signature::add_signature,
    to_raw,
};

/// How many users of one server have their whole device lists fetched for one query. More are asked for in one request, and not
/// cached.
const RESYNCS_PER_QUERY_MAX: usize = 20;

/// Device -> its keys.
type DeviceMap = BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>;

/// A user's master and self-signing key.
type PublicCrossSigningKeys = (Option<Raw<CrossSigningKey>>, Option<Raw<CrossSigningKey>>);

/// What a device uploads.
#[derive(Debug, Default)]
pub struct DeviceKeysUpload {
    pub device_keys: Option<Raw<DeviceKeys>>,
    pub one_time_keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
    pub fallback_keys: BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
}

/// Why an upload was refused. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// `M_BAD_JSON`
    #[error("device_keys are malformed: {0}")]
    BadDeviceKeys(String),
    /// `M_BAD_JSON`
    #[error("device_keys belong to another user or device")]
    NotYours,
    /// `M_BAD_JSON`
    #[error("key {key_id} is malformed")]
    BadKey { key_id: String },
    /// `M_INVALID_PARAM`
    #[error("one-time key {key_id} already exists with other content")]
    OneTimeKeyExists { key_id: String },
    /// `M_INVALID_PARAM`
    #[error("too many one-time keys")]
    TooManyKeys,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Keys {
    /// Keeps what a device uploads, and tells everyone who shares a room with its user when its identity keys changed.
    ///
    /// The answer counts the device's unclaimed one-time keys. Spec: `POST /keys/upload`.
    pub async fn upload(
        &self,
        user: &UserId,
        device: &DeviceId,
        upload: DeviceKeysUpload,
    ) -> Result<BTreeMap<OneTimeKeyAlgorithm, UInt>, UploadError> {
        let device_keys = upload.device_keys.as_ref().map(|keys| check_device_keys(user, device, keys)).transpose()?;
        commit_guarded(&self.store, Domain::Account(user.to_owned()), |batch| {
            if let Some(keys) = &device_keys {
                self.queue_device_keys(batch, user, device, keys)?;
            }
            let counts = one_time_keys::queue_one_time_keys(&self.store, batch, user, device, &upload.one_time_keys)?;
            one_time_keys::queue_fallback_keys(&self.store, batch, user, device, &upload.fallback_keys)?;
            if !batch.is_empty() {
                batch.wake(Topic::User(user.to_owned()));
            }
            Ok::<_, UploadError>(counts)
        })
        .await
    }

    fn queue_device_keys(
        &self,
        batch: &mut Batch,
        user: &UserId,
        device: &DeviceId,
        keys: &JsonObject,
    ) -> Result<(), UploadError> {
        let row = (user.to_owned(), device.to_owned());
        if self.store.get(&DEVICE_KEYS, &row)?.is_some_and(|stored| stored.0 == *keys) {
            return Ok(());
        }
        batch.put(&DEVICE_KEYS, &row, &Json(keys.clone()));
        let mut signed = keys.clone();
        add_stored_signatures(&self.store, &mut signed, user, device.as_str(), None)?;
        let display_name = self.get_told_name(user, device)?;
        let change = DeviceChange { device, keys: Some(signed), display_name, deleted: false };
        queue_device_changes(&self.store, batch, user, vec![change])?;
        Ok(())
    }

    /// The keys of users' devices, and their cross-signing keys, as `viewer` may see them. An empty list of devices means all.
    ///
    /// Remote users' keys come from the cache where it can be relied on, else from their servers; servers that do not answer in
    /// time are named in `failures`. Spec: `POST /keys/query`.
    pub async fn query(
        &self,
        viewer: &UserId,
        wanted: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
        timeout: Option<Duration>,
    ) -> Result<v3::Response, KeysError> {
        let timeout = timeout.unwrap_or(REMOTE_TIMEOUT_DEFAULT).min(REMOTE_TIMEOUT_MAX);
        let mut answer = v3::Response::new();
        let mut to_fetch: BTreeMap<OwnedUserId, (Vec<OwnedDeviceId>, Freshness)> = BTreeMap::new();
        for (user, devices) in wanted {
            if self.is_local(&user) {
                let keys = self.get_local_devices(&user, &devices, DisplayNames::Shown)?;
                answer.device_keys.insert(user.clone(), keys);
                self.add_cross_signing_keys(&mut answer, viewer, &user)?;
                continue;
            }
            match self.freshness(&user)? {
                Freshness::Fresh => self.add_cached(&mut answer, viewer, &user, &devices)?,
                freshness => {
                    to_fetch.insert(user, (devices, freshness));
                }
            }
        }
        let servers =
            by_server(to_fetch).into_iter().map(|(server, users)| self.query_server(viewer, server, users, timeout));
        for fetched in join_all(servers).await {
            let fetched = fetched?;
            answer.device_keys.extend(fetched.device_keys);
            answer.master_keys.extend(fetched.master_keys);
            answer.self_signing_keys.extend(fetched.self_signing_keys);
            answer.failures.extend(fetched.failures);
        }
        Ok(answer)
    }

    /// What one server says of its users: device lists that can be cached are, and the others are asked for in one request.
    async fn query_server(
        &self,
        viewer: &UserId,
        server: OwnedServerName,
        users: BTreeMap<OwnedUserId, (Vec<OwnedDeviceId>, Freshness)>,
        timeout: Duration,
    ) -> Result<v3::Response, KeysError> {
        let mut answer = v3::Response::new();
        let (mut to_cache, mut to_ask) = (Vec::new(), BTreeMap::new());
        for (user, (devices, freshness)) in users {
            if freshness == Freshness::Outdated && to_cache.len() < RESYNCS_PER_QUERY_MAX {
                to_cache.push((user, devices));
            } else {
                to_ask.insert(user, devices);
            }
        }

        let resyncs = to_cache.iter().map(|(user, _)| self.resync_within(user, timeout));
        for ((user, devices), resynced) in to_cache.iter().zip(join_all(resyncs).await) {
            match resynced {
                Ok(()) => self.add_cached(&mut answer, viewer, user, devices)?,
                // The server may be one that knows only the other endpoint, or that no longer shares the room.
                Err(error) => {
                    tracing::info!(user.id = %user, error = %error, "device list could not be fetched whole");
                    to_ask.insert(user.clone(), devices.clone());
                }
            }
        }
        if to_ask.is_empty() {
            return Ok(answer);
        }

        match self.federation.fetch_keys(&server, v1::Request::new(to_ask.clone()), timeout).await {
            Ok(mut response) => {
                for user in to_ask.keys() {
                    let devices = response.device_keys.remove(user).unwrap_or_default();
                    let devices = devices.into_iter().filter(|(device, keys)| is_keys_of(keys, user, device)).collect();
                    answer.device_keys.insert(user.clone(), devices);
                    if let Some(key) =
                        response.master_keys.remove(user).and_then(|key| cross_signing_key_of(&key, user))
                    {
                        self.insert_signed(&mut answer.master_keys, viewer, user, key)?;
                    }
                    if let Some(key) =
                        response.self_signing_keys.remove(user).and_then(|key| cross_signing_key_of(&key, user))
                    {
                        answer.self_signing_keys.extend(to_raw(&key).map(|key| (user.clone(), key)));
                    }
                }
            }
            Err(error) => {
                tracing::info!(destination = %server, error = %error, "keys could not be queried");
                answer.failures.insert(server.to_string(), failure_json(&error));
            }
        }
        Ok(answer)
    }

    /// What another server may know of local users' keys. Display names of devices stay here unless the configuration says
    /// otherwise.
    ///
    /// Spec: Server-Server API, `POST /user/keys/query`.
    pub fn query_local(&self, wanted: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>) -> Result<v1::Response, KeysError> {
        let mut answer = v1::Response::default();
        for (user, devices) in wanted {
            if !self.is_local(&user) {
                continue;
            }
            answer.device_keys.insert(user.clone(), self.get_local_devices(&user, &devices, self.told_names())?);
            let (master, self_signing) = self.get_public_cross_signing_keys(&user)?;
            answer.master_keys.extend(master.map(|key| (user.clone(), key)));
            answer.self_signing_keys.extend(self_signing.map(|key| (user, key)));
        }
        Ok(answer)
    }

    /// A local user's whole device list, for another server to cache. `None`: not a user of this server.
    ///
    /// Spec: Server-Server API, `GET /user/devices/{userId}`.
    pub fn get_user_devices(&self, user: &UserId) -> Result<Option<UserDevices>, KeysError> {
        if !self.is_local(user) {
            return Ok(None);
        }
        // Read before the devices: a change in between then comes again as an update, which is harmless.
        let stream_id = self.store.get(&DEVICE_LIST_STREAM, &user.to_owned())?.unwrap_or_default();
        let mut answer = UserDevices::new(user.to_owned(), UInt::new_saturating(stream_id));
        let devices = self.get_local_devices(user, &[], self.told_names())?;
        for (device, keys) in devices {
            let display_name = self.get_told_name(user, &device)?;
            let mut device = UserDevice::new(device, keys);
            device.device_display_name = display_name;
            answer.devices.push(device);
        }
        (answer.master_key, answer.self_signing_key) = self.get_public_cross_signing_keys(user)?;
        Ok(Some(answer))
    }

    fn told_names(&self) -> DisplayNames {
        if self.shares_device_names { DisplayNames::Shown } else { DisplayNames::Hidden }
    }

    /// A device's name, if other servers are told.
    pub(super) fn get_told_name(&self, user: &UserId, device: &DeviceId) -> Result<Option<String>, StoreError> {
        if !self.shares_device_names {
            return Ok(None);
        }
        let record = self.store.get(&DEVICES, &(user.to_owned(), device.to_owned()))?;
        Ok(record.and_then(|record| record.display_name))
    }

    fn get_local_devices(
        &self,
        user: &UserId,
        devices: &[OwnedDeviceId],
        names: DisplayNames,
    ) -> Result<DeviceMap, StoreError> {
        let mut rows: Vec<(OwnedDeviceId, JsonObject)> = Vec::new();
        if devices.is_empty() {
            for row in self.store.scan(&DEVICE_KEYS, &(user.to_owned(),), Direction::Forward) {
                let ((_, device), keys) = row?;
                rows.push((device, keys.0));
            }
        } else {
            for device in devices.iter().collect::<BTreeSet<_>>() {
                if let Some(keys) = self.store.get(&DEVICE_KEYS, &(user.to_owned(), device.clone()))? {
                    rows.push((device.clone(), keys.0));
                }
            }
        }
        let mut answer = DeviceMap::new();
        for (device, mut keys) in rows {
            add_stored_signatures(&self.store, &mut keys, user, device.as_str(), None)?;
            let record = match names {
                DisplayNames::Shown => self.store.get(&DEVICES, &(user.to_owned(), device.clone()))?,
                DisplayNames::Hidden => None,
            };
            set_display_name(&mut keys, record.and_then(|record| record.display_name));
            answer.extend(to_raw(&keys).map(|keys| (device, keys)));
        }
        Ok(answer)
    }

    fn add_cached(
        &self,
        answer: &mut v3::Response,
        viewer: &UserId,
        user: &UserId,
        devices: &[OwnedDeviceId],
    ) -> Result<(), StoreError> {
        let mut cached = DeviceMap::new();
        for row in self.store.scan(&REMOTE_DEVICES, &(user.to_owned(),), Direction::Forward) {
            let ((_, device), Json(remote)) = row?;
            if devices.is_empty() || devices.contains(&device) {
                let mut keys = remote.keys;
                set_display_name(&mut keys, remote.display_name);
                cached.extend(to_raw(&keys).map(|keys| (device, keys)));
            }
        }
        answer.device_keys.insert(user.to_owned(), cached);
        self.add_cross_signing_keys(answer, viewer, user)
    }

    fn add_cross_signing_keys(
        &self,
        answer: &mut v3::Response,
        viewer: &UserId,
        user: &UserId,
    ) -> Result<(), StoreError> {
        if let Some(Json(master)) = self.store.get(&CROSS_SIGNING_KEYS, &(user.to_owned(), MASTER.to_owned()))? {
            self.insert_signed(&mut answer.master_keys, viewer, user, master)?;
        }
        if let Some(Json(key)) = self.store.get(&CROSS_SIGNING_KEYS, &(user.to_owned(), SELF_SIGNING.to_owned()))? {
            answer.self_signing_keys.extend(to_raw(&key).map(|key| (user.to_owned(), key)));
        }
        if viewer == user
            && let Some(Json(key)) = self.store.get(&CROSS_SIGNING_KEYS, &(user.to_owned(), USER_SIGNING.to_owned()))?
        {
            answer.user_signing_keys.extend(to_raw(&key).map(|key| (user.to_owned(), key)));
        }
        Ok(())
    }

    fn insert_signed(
        &self,
        keys: &mut BTreeMap<OwnedUserId, Raw<CrossSigningKey>>,
        viewer: &UserId,
        user: &UserId,
        mut master: JsonObject,
    ) -> Result<(), StoreError> {
        if let Some((_, public_key)) = public_key(&master) {
            let public_key = public_key.to_owned();
            add_stored_signatures(&self.store, &mut master, user, &public_key, Some(viewer))?;
        }
        keys.extend(to_raw(&master).map(|key| (user.to_owned(), key)));
        Ok(())
    }

    fn get_public_cross_signing_keys(&self, user: &UserId) -> Result<PublicCrossSigningKeys, StoreError> {
        let mut master = None;
        if let Some(Json(mut key)) = self.store.get(&CROSS_SIGNING_KEYS, &(user.to_owned(), MASTER.to_owned()))? {
            if let Some((_, public_key)) = public_key(&key) {
                let public_key = public_key.to_owned();
                add_stored_signatures(&self.store, &mut key, user, &public_key, None)?;
            }
            master = to_raw(&key);
        }
        let self_signing = self.store.get(&CROSS_SIGNING_KEYS, &(user.to_owned(), SELF_SIGNING.to_owned()))?;
        Ok((master, self_signing.and_then(|Json(key)| to_raw(&key))))
    }
}

/// Whether devices' display names are part of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DisplayNames {
    Shown,
    Hidden,
}

/// Adds the signatures of a device or master key that its owner uploaded, and those of `viewer`: nobody else's are for them to see.
pub(super) fn add_stored_signatures(
    store: &Store,
    object: &mut JsonObject,
    user: &UserId,
    signed: &str,
    viewer: Option<&UserId>,
) -> Result<(), StoreError> {
    let others = viewer.filter(|viewer| *viewer != user);
    for signer in [Some(user), others].into_iter().flatten() {
        let prefix = (user.to_owned(), signed.to_owned(), signer.to_owned());
        for row in store.scan(&KEY_SIGNATURES, &prefix, Direction::Forward) {
            let ((_, _, signer, key_id), signature) = row?;
            add_signature(object, &signer, &key_id, &signature);
        }
    }
    Ok(())
}

/// A device's keys carry nothing in `unsigned` but the name this server knows.
fn set_display_name(keys: &mut JsonObject, name: Option<String>) {
    keys.remove("unsigned");
    if let Some(name) = name {
        keys.insert("unsigned".to_owned(), serde_json::json!({ "device_display_name": name }));
    }
}

pub(super) fn check_device_keys(
    user: &UserId,
    device: &DeviceId,
    keys: &Raw<DeviceKeys>,
) -> Result<JsonObject, UploadError> {
    let malformed = |error: serde_json::Error| UploadError::BadDeviceKeys(error.to_string());
    let typed: DeviceKeys = keys.deserialize().map_err(malformed)?;
    if typed.user_id != user || typed.device_id != device {
        return Err(UploadError::NotYours);
    }
    let mut object: JsonObject = serde_json::from_str(keys.json().get()).map_err(malformed)?;
    object.remove("unsigned");
    Ok(object)
}

/// Whether device keys that another server sent are of the device they are filed under.
pub(super) fn is_keys_of(keys: &Raw<DeviceKeys>, user: &UserId, device: &DeviceId) -> bool {
    serde_json::from_str(keys.json().get()).is_ok_and(|keys: JsonObject| is_object_of(&keys, user, device))
}

pub(super) fn is_object_of(keys: &JsonObject, user: &UserId, device: &DeviceId) -> bool {
    keys.get("user_id").and_then(Value::as_str) == Some(user.as_str())
        && keys.get("device_id").and_then(Value::as_str) == Some(device.as_str())
        && keys.get("keys").is_some_and(Value::is_object)
}

/// A cross-signing key that another server sent, if it is of this user.
pub(super) fn cross_signing_key_of(key: &Raw<CrossSigningKey>, user: &UserId) -> Option<JsonObject> {
    let key: JsonObject = serde_json::from_str(key.json().get()).ok()?;
    (key.get("user_id").and_then(Value::as_str) == Some(user.as_str()) && public_key(&key).is_some()).then_some(key)
}
