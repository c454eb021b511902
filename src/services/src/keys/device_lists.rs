//! A local user's device list changes: the row that sync reads, and the EDUs to every server that shares a room with the user.
//!
//! Each function takes the batch of whoever changes the device, and guards the user's account in it: commit it with a retry on
//! [`CommitError::Conflict`](chappe_store::CommitError::Conflict). Call one of them once in a batch.
//!
//! Spec: Server-Server API, Device Management.

use chappe_store::{
    Batch, Direction, Domain, Store, StoreError, Topic,
    record::Json,
    tables::{
        accounts::DEVICES,
        e2ee::{
            CLAIMED_ONE_TIME_KEYS, DEHYDRATED_DEVICES, DEVICE_KEYS, DEVICE_LIST_LATEST, DEVICE_LIST_LOG,
            DEVICE_LIST_STREAM, FALLBACK_KEYS, JsonObject, KEY_SIGNATURES, ONE_TIME_KEY_COUNTS, ONE_TIME_KEY_PLACES,
            ONE_TIME_KEYS,
        },
        to_device::{TO_DEVICE, TO_DEVICE_TRANSACTION_AGES, TO_DEVICE_TRANSACTIONS},
    },
};
use ruma::{DeviceId, OwnedDeviceId, ServerName, UserId};
use serde_json::{Value, json};

use super::{
    device_keys::add_stored_signatures,
    queue_edu,
    sharing::{joined_rooms, servers_sharing_room, shared_rooms_of_remote},
};
use crate::deliveries;

/// What became of a device.
pub(super) struct DeviceChange<'a> {
    pub(super) device: &'a DeviceId,
    /// Its keys, with all signatures of its owner.
    pub(super) keys: Option<JsonObject>,
    /// Its name, if other servers are told.
    pub(super) display_name: Option<String>,
    pub(super) deleted: bool,
}

/// A device was made by logging in.
pub fn queue_device_added(
    store: &Store,
    batch: &mut Batch,
    user: &UserId,
    device: &DeviceId,
) -> Result<(), StoreError> {
    queue_device_changes(
        store,
        batch,
        user,
        vec![DeviceChange { device, keys: None, display_name: None, deleted: false }],
    )
}

/// A device has a new display name, of which other servers are told `told_name`.
pub fn queue_device_renamed(
    store: &Store,
    batch: &mut Batch,
    user: &UserId,
    device: &DeviceId,
    told_name: Option<&str>,
) -> Result<(), StoreError> {
    let keys = get_signed_keys(store, user, device)?;
    let display_name = told_name.map(str::to_owned);
    queue_device_changes(store, batch, user, vec![DeviceChange { device, keys, display_name, deleted: false }])
}

/// A device's keys with all signatures of its owner, if it has any keys.
fn get_signed_keys(store: &Store, user: &UserId, device: &DeviceId) -> Result<Option<JsonObject>, StoreError> {
    let Some(Json(mut keys)) = store.get(&DEVICE_KEYS, &(user.to_owned(), device.to_owned()))? else {
        return Ok(None);
    };
    add_stored_signatures(store, &mut keys, user, device.as_str(), None)?;
    Ok(Some(keys))
}

/// Tells one server, which has missed earlier updates, that a local user's devices are not as it knows them. It repeats the last
/// update, and names the one before it: a server that does not know that one fetches the whole list.
pub(super) fn queue_list_reminder(
    store: &Store,
    batch: &mut Batch,
    user: &UserId,
    server: &ServerName,
) -> Result<(), StoreError> {
    let stream_id = store.get(&DEVICE_LIST_STREAM, &user.to_owned())?.unwrap_or_default();
    let device = store.scan(&DEVICES, &(user.to_owned(),), Direction::Forward).next().transpose()?;
    let Some(((_, device), _)) = device.filter(|_| stream_id > 0) else { return Ok(()) };
    let previous: &[u64] = if stream_id == 1 { &[] } else { &[stream_id - 1] };
    let mut content = json!({ "user_id": user, "device_id": device, "stream_id": stream_id, "prev_id": previous });
    if let (Some(content), Some(keys)) = (content.as_object_mut(), get_signed_keys(store, user, &device)?) {
        content.insert("keys".to_owned(), Value::Object(keys));
    }
    queue_edu(batch, server, "m.device_list_update", content);
    Ok(())
}

/// A device is deleted: so are its keys and the messages that wait for it.
pub fn queue_device_deleted(
    store: &Store,
    batch: &mut Batch,
    user: &UserId,
    device: &DeviceId,
) -> Result<(), StoreError> {
    queue_devices_deleted(store, batch, user, &[device.to_owned()])
}

/// Several devices of one user are deleted, as [`queue_device_deleted`] does for one.
pub fn queue_devices_deleted(
    store: &Store,
    batch: &mut Batch,
    user: &UserId,
    devices: &[OwnedDeviceId],
) -> Result<(), StoreError> {
    if devices.is_empty() {
        return Ok(());
    }
    let dehydrated = store.get(&DEHYDRATED_DEVICES, &user.to_owned())?;
    if dehydrated.is_some_and(|dehydrated| devices.contains(&dehydrated.device_id)) {
        batch.delete(&DEHYDRATED_DEVICES, &user.to_owned());
    }
    for device in devices {
        queue_device_rows_deleted(batch, user, device);
    }
    let changes =
        devices.iter().map(|device| DeviceChange { device, keys: None, display_name: None, deleted: true }).collect();
    queue_device_changes(store, batch, user, changes)
}

/// Everything of a device that keys and messages to devices keep.
pub(super) fn queue_device_rows_deleted(batch: &mut Batch, user: &UserId, device: &DeviceId) {
    let row = (user.to_owned(), device.to_owned());
    batch.delete(&DEVICE_KEYS, &row);
    batch.delete_prefix(&ONE_TIME_KEYS, &row);
    batch.delete_prefix(&ONE_TIME_KEY_PLACES, &row);
    batch.delete_prefix(&ONE_TIME_KEY_COUNTS, &row);
    batch.delete_prefix(&CLAIMED_ONE_TIME_KEYS, &row);
    batch.delete_prefix(&FALLBACK_KEYS, &row);
    batch.delete_prefix(&TO_DEVICE, &row);
    batch.delete_prefix(&TO_DEVICE_TRANSACTIONS, &row);
    batch.delete_prefix(&TO_DEVICE_TRANSACTION_AGES, &row);
    batch.delete_prefix(&KEY_SIGNATURES, &(user.to_owned(), device.to_string()));
    deliveries::queue_deleted(batch, user, device);
}

/// The rows and EDUs for changed devices of a local user.
pub(super) fn queue_device_changes(
    store: &Store,
    batch: &mut Batch,
    user: &UserId,
    changes: Vec<DeviceChange<'_>>,
) -> Result<(), StoreError> {
    let account = Domain::Account(user.to_owned());
    let seen = store.domain_version(&account)?;
    batch.guard(account, seen);
    queue_list_changed(store, batch, user)?;

    let servers = servers_sharing_room(store, user)?;
    let mut stream_id = store.get(&DEVICE_LIST_STREAM, &user.to_owned())?.unwrap_or_default();
    for change in changes {
        // Each update names the one before it, also where a server was not sent that one: not knowing it, that server sees
        // that it missed something.
        let previous: &[u64] = if stream_id == 0 { &[] } else { &[stream_id] };
        let mut content = json!({
            "user_id": user,
            "device_id": change.device,
            "stream_id": stream_id + 1,
            "prev_id": previous,
        });
        if let Some(content) = content.as_object_mut() {
            if change.deleted {
                content.insert("deleted".to_owned(), Value::from(true));
            }
            if let Some(name) = change.display_name {
                content.insert("device_display_name".to_owned(), Value::String(name));
            }
            if let Some(keys) = change.keys {
                content.insert("keys".to_owned(), Value::Object(keys));
            }
        }
        stream_id += 1;
        for server in &servers {
            queue_edu(batch, server, "m.device_list_update", content.clone());
        }
    }
    batch.put(&DEVICE_LIST_STREAM, &user.to_owned(), &stream_id);
    Ok(())
}

/// Notes that a local user's devices or public cross-signing keys changed, and wakes those who care.
pub(super) fn queue_list_changed(store: &Store, batch: &mut Batch, user: &UserId) -> Result<(), StoreError> {
    queue_log_row(store, batch, user)?;
    batch.wake(Topic::User(user.to_owned()));
    for room in joined_rooms(store, user)? {
        batch.wake(Topic::Room(room));
    }
    Ok(())
}

/// The same for a remote user.
pub(super) fn queue_remote_list_changed(
    store: &Store,
    batch: &mut Batch,
    our_server: &ServerName,
    user: &UserId,
) -> Result<(), StoreError> {
    queue_log_row(store, batch, user)?;
    for (room, _) in shared_rooms_of_remote(store, our_server, user)? {
        batch.wake(Topic::Room(room));
    }
    Ok(())
}

fn queue_log_row(store: &Store, batch: &mut Batch, user: &UserId) -> Result<(), StoreError> {
    if let Some(before) = store.get(&DEVICE_LIST_LATEST, &user.to_owned())? {
        batch.delete(&DEVICE_LIST_LOG, &before);
    }
    let position = batch.next_position();
    batch.put(&DEVICE_LIST_LOG, &position, &user.to_owned());
    batch.put(&DEVICE_LIST_LATEST, &user.to_owned(), &position);
    Ok(())
}
