//! Dehydrated devices (MSC3814): a device without a session, left with the server so that keys sent to its user while they have no other
//! device are not lost. A new device of the user takes it over, reads its messages, and deletes it.
//!
//! To everybody else it is a device like others: it has keys, and messages wait for it until it is deleted.

use chappe_store::{
    CommitError, Domain, Json, Position, StoreError, Topic,
    tables::{
        accounts::{DEVICES, DeviceRecord},
        e2ee::{DEHYDRATED_DEVICES, DEVICE_KEYS, DehydratedDeviceRecord},
    },
};
use ruma::{DeviceId, OwnedDeviceId, UserId};

use super::{
    DeviceKeysUpload, Keys, UploadError,
    device_keys::check_device_keys,
    device_lists::{DeviceChange, queue_device_changes, queue_device_rows_deleted},
    is_storable, one_time_keys,
};
use crate::guarded::commit_guarded;

/// Longest data of a dehydrated device, in bytes.
const DATA_BYTES_MAX: usize = 512 * 1024;
/// Longest display name, in bytes.
const DISPLAY_NAME_BYTES_MAX: usize = 400;

/// A dehydrated device as its client hands it over.
pub struct NewDehydratedDevice {
    pub device_id: OwnedDeviceId,
    pub display_name: Option<String>,
    /// JSON text that is handed back as it is.
    pub data: String,
    /// With the device's identity keys.
    pub keys: DeviceKeysUpload,
}

/// A dehydrated device that was not kept.
#[derive(Debug, thiserror::Error)]
pub enum DehydrateError {
    #[error("the device id is empty, too long, or holds a zero byte")]
    BadDeviceId,
    #[error("this device is one that somebody uses")]
    InUse,
    #[error("the data or name of the device is too large")]
    TooLarge,
    #[error("the device has no identity keys")]
    NoKeys,
    #[error(transparent)]
    Keys(#[from] UploadError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Keys {
    /// Keeps a dehydrated device in place of the one that the user may have had before.
    pub async fn put_dehydrated_device(
        &self,
        user: &UserId,
        new: &NewDehydratedDevice,
        now_ms: u64,
    ) -> Result<(), DehydrateError> {
        let device = &*new.device_id;
        if !is_storable(device.as_str()) {
            return Err(DehydrateError::BadDeviceId);
        }
        if new.data.len() > DATA_BYTES_MAX
            || new.display_name.as_ref().is_some_and(|name| name.len() > DISPLAY_NAME_BYTES_MAX)
        {
            return Err(DehydrateError::TooLarge);
        }
        let uploaded = new.keys.device_keys.as_ref().ok_or(DehydrateError::NoKeys)?;
        let identity_keys = check_device_keys(user, device, uploaded)?;
        let row = (user.to_owned(), new.device_id.clone());
        commit_guarded(&self.store, Domain::Account(user.to_owned()), |batch| {
            let before = self.store.get(&DEHYDRATED_DEVICES, &user.to_owned())?.map(|record| record.device_id);
            let is_replaced = before.as_deref() == Some(device);
            if !is_replaced && self.store.contains(&DEVICES, &row)? {
                return Err(DehydrateError::InUse);
            }
            let mut changes = Vec::new();
            if let Some(before) = &before {
                batch.delete(&DEVICES, &(user.to_owned(), before.clone()));
                queue_device_rows_deleted(batch, user, before);
                if !is_replaced {
                    changes.push(DeviceChange { device: before, keys: None, display_name: None, deleted: true });
                }
            }
            batch.put(&DEVICES, &row, &DeviceRecord { display_name: new.display_name.clone(), created_at_ms: now_ms });
            batch.put(&DEVICE_KEYS, &row, &Json(identity_keys.clone()));
            // What is deleted in this batch is still in the store, and must not stand in the way of the new keys.
            one_time_keys::queue_first_one_time_keys(batch, user, device, &new.keys.one_time_keys)?;
            one_time_keys::queue_fallback_keys(&self.store, batch, user, device, &new.keys.fallback_keys)?;
            let record = DehydratedDeviceRecord { device_id: new.device_id.clone(), data: new.data.clone() };
            batch.put(&DEHYDRATED_DEVICES, &user.to_owned(), &record);
            changes.push(DeviceChange {
                device,
                keys: Some(identity_keys.clone()),
                display_name: None,
                deleted: false,
            });
            queue_device_changes(&self.store, batch, user, changes)?;
            batch.wake(Topic::User(user.to_owned()));
            Ok(())
        })
        .await
    }

    /// The user's dehydrated device, and the data to bring it back.
    pub fn get_dehydrated_device(&self, user: &UserId) -> Result<Option<DehydratedDeviceRecord>, StoreError> {
        self.store.get(&DEHYDRATED_DEVICES, &user.to_owned())
    }

    /// Whether this is the user's dehydrated device.
    pub fn is_dehydrated_device(&self, user: &UserId, device: &DeviceId) -> Result<bool, StoreError> {
        Ok(self.get_dehydrated_device(user)?.is_some_and(|record| record.device_id == device))
    }
}

/// The place in a paging token of a dehydrated device's messages; `None`: no such token.
pub fn parse_messages_token(token: &str) -> Option<Position> {
    token.strip_prefix('d')?.parse().ok().map(Position)
}

pub fn messages_token(position: Position) -> String {
    format!("d{position}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ruma::{OneTimeKeyAlgorithm, serde::Raw, user_id};
    use serde_json::{Value, json};

    use super::*;
    use crate::keys::testing::Bench;

    fn raw<T>(value: Value) -> Raw<T> {
        Raw::from_json(serde_json::value::to_raw_value(&value).unwrap())
    }

    fn device(user: &UserId, id: &str, one_time_keys: usize) -> NewDehydratedDevice {
        let keys = json!({
            "user_id": user, "device_id": id, "algorithms": [], "keys": {}, "signatures": {}, "dehydrated": true
        });
        let one_time_keys: BTreeMap<_, _> = (0..one_time_keys)
            .map(|n| (format!("signed_curve25519:K{n}").try_into().unwrap(), raw(json!({ "key": n.to_string() }))))
            .collect();
        NewDehydratedDevice {
            device_id: id.into(),
            display_name: None,
            data: json!({ "algorithm": "test", "of": id }).to_string(),
            keys: DeviceKeysUpload { device_keys: Some(raw(keys)), one_time_keys, fallback_keys: BTreeMap::new() },
        }
    }

    #[tokio::test]
    async fn new_dehydrated_device_takes_the_place_of_the_old_one_with_its_keys() {
        let bench = Bench::new();
        let alice = user_id!("@alice:ours.example");
        bench.device(alice, "PHONE").await;
        bench.keys.put_dehydrated_device(alice, &device(alice, "ONE", 3), 1).await.unwrap();
        bench.keys.put_dehydrated_device(alice, &device(alice, "TWO", 2), 2).await.unwrap();
        let kept = bench.keys.get_dehydrated_device(alice).unwrap().unwrap();
        assert_eq!((kept.device_id.as_str(), kept.data.contains("TWO")), ("TWO", true));
        let exists = |id: &str| bench.store.contains(&DEVICES, &(alice.to_owned(), id.into())).unwrap();
        assert!(!exists("ONE") && exists("TWO") && exists("PHONE"));
        let count = |id: &str| {
            let counts = one_time_keys::one_time_key_counts(&bench.store, alice, id.into()).unwrap();
            u64::from(counts[&OneTimeKeyAlgorithm::SignedCurve25519])
        };
        assert_eq!((count("ONE"), count("TWO")), (0, 2));

        bench.keys.put_dehydrated_device(alice, &device(alice, "TWO", 1), 3).await.unwrap();
        assert_eq!(count("TWO"), 1, "the same device again has its new keys only");
        assert!(matches!(
            bench.keys.put_dehydrated_device(alice, &device(alice, "PHONE", 0), 4).await,
            Err(DehydrateError::InUse)
        ));
        let anothers = device(user_id!("@bob:ours.example"), "X", 0);
        assert!(matches!(
            bench.keys.put_dehydrated_device(alice, &anothers, 4).await,
            Err(DehydrateError::Keys(UploadError::NotYours))
        ));
    }
}
