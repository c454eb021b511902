//! The devices of local users: their names, and when they were last seen.
//!
//! Devices come to be by logging in ([`crate::accounts`]); their keys and messages are the business of [`crate::keys`], which
//! is told here when a device goes.

use std::{net::IpAddr, sync::Arc};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, CommitError, Direction, Domain, Store, StoreError,
    tables::accounts::{DEVICES, DEVICES_SEEN, DeviceRecord, DeviceSeenRecord},
};
use ruma::{DeviceId, OwnedDeviceId, UserId};

use crate::{
    account_data,
    accounts::{CreateSessionError, NewDevice, Session, queue_tokens_deleted, random_text},
    guarded::commit_guarded,
    keys,
    push::pushers::queue_pushers_deleted,
};

/// Longest device id that a client may choose, in bytes.
const DEVICE_ID_BYTES_MAX: usize = 255;

/// Longest device name, in bytes.
const DISPLAY_NAME_BYTES_MAX: usize = 400;

/// Length of the device ids that the server makes up, in capital letters.
const DEVICE_ID_LENGTH: usize = 10;

/// How long a device may be active before its last activity is written again.
const SEEN_EVERY_MS: u64 = 300_000;

/// What stands before the device id in the types of the account data that goes with a device (MSC3890).
const LOCAL_NOTIFICATION_SETTINGS: [&str; 2] =
    ["m.local_notification_settings.", "org.matrix.msc3890.local_notification_settings."];

/// A device as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub device_id: OwnedDeviceId,
    pub display_name: Option<String>,
    /// When it was last seen, within some minutes.
    pub last_seen_at_ms: Option<u64>,
    pub last_seen_address: Option<String>,
}

/// A device id or name that cannot be stored.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidDevice {
    #[error("the device id is empty, too long, or holds a control character")]
    Id,
    #[error("the device's name is too long")]
    DisplayName,
}

/// A change to a device that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeDeviceError {
    #[error("there is no such device")]
    NotFound,
    #[error(transparent)]
    Invalid(#[from] InvalidDevice),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// The devices of this server's users.
pub struct Devices {
    store: Store,
    clock: Arc<dyn Clock>,
}

impl Devices {
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    pub fn get_device(&self, user_id: &UserId, device_id: &DeviceId) -> Result<Option<Device>, StoreError> {
        let record = self.store.get(&DEVICES, &(user_id.to_owned(), device_id.to_owned()))?;
        record.map(|record| self.with_last_seen(user_id, device_id.to_owned(), record)).transpose()
    }

    /// All of a user's devices, in order of their ids.
    pub fn scan_devices(&self, user_id: &UserId) -> Result<Vec<Device>, StoreError> {
        let records = scan_device_records(&self.store, user_id)?;
        records.into_iter().map(|(device_id, record)| self.with_last_seen(user_id, device_id, record)).collect()
    }

    fn with_last_seen(
        &self,
        user_id: &UserId,
        device_id: OwnedDeviceId,
        record: DeviceRecord,
    ) -> Result<Device, StoreError> {
        let seen = self.store.get(&DEVICES_SEEN, &(user_id.to_owned(), device_id.clone()))?;
        Ok(Device {
            device_id,
            display_name: record.display_name,
            last_seen_at_ms: seen.as_ref().map(|seen| seen.at_ms),
            last_seen_address: seen.and_then(|seen| seen.address),
        })
    }

    /// Makes a device nobody is logged in on: for application services. One that exists already is left as it is.
    pub async fn create(&self, user_id: &UserId, device: &NewDevice) -> Result<OwnedDeviceId, CreateSessionError> {
        commit_guarded(&self.store, Domain::Account(user_id.to_owned()), |batch| {
            queue_device(&self.store, batch, user_id, device, self.clock.now_ms())
        })
        .await
    }

    /// Gives a device another name, or none. Users who share rooms are shown the new name with the device's keys.
    pub async fn set_display_name(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        display_name: Option<&str>,
    ) -> Result<(), ChangeDeviceError> {
        check_display_name(display_name)?;
        let key = (user_id.to_owned(), device_id.to_owned());
        commit_guarded(&self.store, Domain::Account(user_id.to_owned()), |batch| {
            let record = self.store.get(&DEVICES, &key)?.ok_or(ChangeDeviceError::NotFound)?;
            if record.display_name.as_deref() == display_name {
                return Ok(());
            }
            batch.put(&DEVICES, &key, &DeviceRecord { display_name: display_name.map(str::to_owned), ..record });
            Ok(keys::queue_device_renamed(&self.store, batch, user_id, device_id)?)
        })
        .await
    }

    /// Deletes devices, with their tokens and keys. Those that do not exist are passed over.
    pub async fn delete(&self, user_id: &UserId, device_ids: &[OwnedDeviceId]) -> Result<(), ChangeDeviceError> {
        commit_guarded(&self.store, Domain::Account(user_id.to_owned()), |batch| {
            let mut existing = Vec::new();
            for device_id in device_ids {
                if !existing.contains(device_id)
                    && self.store.contains(&DEVICES, &(user_id.to_owned(), device_id.clone()))?
                {
                    existing.push(device_id.clone());
                }
            }
            Ok(queue_devices_deleted(&self.store, batch, user_id, &existing)?)
        })
        .await
    }

    /// Notes that a device called, and from where; written only if the last note is some minutes old. Nobody waits for it.
    pub fn note_seen(&self, session: &Session, address: Option<IpAddr>) -> Result<(), StoreError> {
        let key = (session.user_id.clone(), session.device_id.clone());
        let now_ms = self.clock.now_ms();
        let before = self.store.get(&DEVICES_SEEN, &key)?;
        if before.is_some_and(|before| now_ms < before.at_ms.saturating_add(SEEN_EVERY_MS))
            || !self.store.contains(&DEVICES, &key)?
        {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.put(
            &DEVICES_SEEN,
            &key,
            &DeviceSeenRecord { at_ms: now_ms, address: address.map(|address| address.to_string()) },
        );
        if let Err(error) = self.store.enqueue(batch) {
            tracing::warn!(%error, "could not note when a device was last seen");
        }
        Ok(())
    }
}

/// All device rows of a user.
pub(crate) fn scan_device_records(
    store: &Store,
    user_id: &UserId,
) -> Result<Vec<(OwnedDeviceId, DeviceRecord)>, StoreError> {
    let rows = store.scan(&DEVICES, &(user_id.to_owned(),), Direction::Forward);
    rows.map(|row| row.map(|((_, device_id), record)| (device_id, record))).collect()
}

/// Puts the device of a login into a batch: an existing one as it is, or a new one.
pub(crate) fn queue_device(
    store: &Store,
    batch: &mut Batch,
    user_id: &UserId,
    device: &NewDevice,
    now_ms: u64,
) -> Result<OwnedDeviceId, CreateSessionError> {
    check_display_name(device.display_name.as_deref())?;
    let device_id = match &device.device_id {
        Some(device_id) => {
            let text = device_id.as_str();
            if text.is_empty() || text.len() > DEVICE_ID_BYTES_MAX || text.chars().any(char::is_control) {
                return Err(InvalidDevice::Id.into());
            }
            device_id.clone()
        }
        None => OwnedDeviceId::from(random_text(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", DEVICE_ID_LENGTH)),
    };
    let key = (user_id.to_owned(), device_id.clone());
    if !store.contains(&DEVICES, &key)? {
        batch.put(&DEVICES, &key, &DeviceRecord { display_name: device.display_name.clone(), created_at_ms: now_ms });
        keys::queue_device_added(store, batch, user_id, &device_id)?;
    }
    Ok(device_id)
}

/// Puts the end of devices into a batch: their tokens, their pushers, their keys, and whom that concerns. Call it once in a batch.
pub(crate) fn queue_devices_deleted(
    store: &Store,
    batch: &mut Batch,
    user_id: &UserId,
    device_ids: &[OwnedDeviceId],
) -> Result<(), StoreError> {
    for device_id in device_ids {
        let key = (user_id.to_owned(), device_id.clone());
        batch.delete(&DEVICES, &key);
        batch.delete(&DEVICES_SEEN, &key);
        queue_tokens_deleted(store, batch, user_id, device_id)?;
        for prefix in LOCAL_NOTIFICATION_SETTINGS {
            account_data::queue_delete(store, batch, user_id, None, &format!("{prefix}{device_id}"))?;
        }
    }
    queue_pushers_deleted(store, batch, user_id, device_ids)?;
    keys::queue_devices_deleted(store, batch, user_id, device_ids)
}

fn check_display_name(display_name: Option<&str>) -> Result<(), InvalidDevice> {
    if display_name.is_some_and(|name| name.len() > DISPLAY_NAME_BYTES_MAX) {
        Err(InvalidDevice::DisplayName)
    } else {
        Ok(())
    }
}
