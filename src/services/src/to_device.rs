//! Messages to devices: sent by clients and servers, kept until the device has synced past them.
//!
//! The server does not look into messages, and does not keep those for devices it does not know.
//!
//! Spec: Client-Server API, Send-to-Device messaging; Server-Server API, Send-to-device messaging.

use std::{collections::BTreeMap, sync::Arc};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, CommitError, Direction, Domain, Position, Store, StoreError, Topic,
    tables::{
        accounts::DEVICES,
        to_device::{
            RECEIVED_TO_DEVICE, RECEIVED_TO_DEVICE_AGES, TO_DEVICE, TO_DEVICE_TRANSACTION_AGES, TO_DEVICE_TRANSACTIONS,
        },
    },
};
use quick_cache::sync::Cache;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, TransactionId, UserId,
    events::AnyToDeviceEventContent, serde::Raw, to_device::DeviceIdOrAllDevices,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    deliveries::{self, Delivery},
    guarded::commit_guarded,
    keys::{EduError, Keys, is_storable, queue_edu},
};

/// How long a client's transaction id is remembered.
const TRANSACTION_KEPT_MS: u64 = 24 * 60 * 60 * 1000;

/// How long another server's message id is remembered.
const RECEIVED_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// How many remembered ids one write forgets at most.
const FORGOTTEN_PER_WRITE_MAX: usize = 1_000;

/// How often it is looked for ids of one device or server that are to be forgotten, and for how many of these it is known when that was
/// last done.
const FORGETTING_INTERVAL_MS: u64 = 1_000;
const FORGETTING_KEPT: usize = 10_000;

/// How large the messages of one `m.direct_to_device` EDU may grow, in bytes.
const EDU_BYTES_MAX: usize = 48 * 1024;

/// The most messages given to one sync.
pub const MESSAGES_PER_SYNC_MAX: usize = 100;

/// User -> device, or all of the user's devices -> content.
pub type Messages = BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Raw<AnyToDeviceEventContent>>>;

/// Messages that were not sent. None of them was.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// `M_INVALID_PARAM`
    #[error("the transaction id is empty, longer than 255 bytes, or holds a zero byte")]
    BadTransactionId,
    /// `M_TOO_LARGE`
    #[error("a message to another server is too large")]
    TooLarge,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// What a device is given by one sync.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inbox {
    /// Events as JSON text, in the order in which they came.
    pub events: Vec<String>,
    /// The position up to which the device has been given everything: to be acknowledged once the device comes back.
    pub up_to: Position,
    /// There are more messages than were given.
    pub limited: bool,
}

/// Keeps and hands out messages to devices. Cheap to clone.
#[derive(Clone)]
pub struct ToDevice {
    store: Store,
    server_name: OwnedServerName,
    clock: Arc<dyn Clock>,
    keys: Keys,
    /// When it was last looked for ids that are to be forgotten.
    looked_at_ms: Arc<Cache<IdsOf, u64>>,
}

/// Whose ids are remembered.
#[derive(Clone, PartialEq, Eq, Hash)]
enum IdsOf {
    Device(OwnedUserId, OwnedDeviceId),
    Server(OwnedServerName),
}

#[derive(Deserialize)]
struct DirectToDevice {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
    message_id: String,
    /// Read one by one: a user or device that is malformed does not stop the others.
    messages: BTreeMap<String, BTreeMap<String, Value>>,
}

impl ToDevice {
    pub fn new(store: Store, server_name: OwnedServerName, clock: Arc<dyn Clock>, keys: Keys) -> Self {
        Self { store, server_name, clock, keys, looked_at_ms: Arc::new(Cache::new(FORGETTING_KEPT)) }
    }

    /// Sends messages: once for each transaction id of a device, however often the device asks.
    ///
    /// Spec: `PUT /sendToDevice/{eventType}/{txnId}`.
    pub async fn send(
        &self,
        sender: &UserId,
        sending_device: &DeviceId,
        event_type: &str,
        transaction: &TransactionId,
        messages: &Messages,
    ) -> Result<(), SendError> {
        if !is_storable(transaction.as_str()) {
            return Err(SendError::BadTransactionId);
        }
        let domain = Domain::Named { kind: "to_device", id: format!("{sender} {sending_device}") };
        commit_guarded(&self.store, domain, |batch| {
            let row = (sender.to_owned(), sending_device.to_owned(), transaction.to_string());
            if self.store.contains(&TO_DEVICE_TRANSACTIONS, &row)? {
                return Ok(());
            }
            self.queue_transaction(batch, row)?;
            let mut remote: BTreeMap<&ServerName, Vec<(&UserId, String, &RawValue)>> = BTreeMap::new();
            for (user, devices) in messages {
                for (device, content) in devices {
                    if user.server_name() == self.server_name {
                        self.queue_local(batch, sender, event_type, user, device, content.json())?;
                    } else {
                        remote.entry(user.server_name()).or_default().push((user, device.to_string(), content.json()));
                    }
                }
            }
            for (server, messages) in remote {
                self.queue_remote(batch, sender, event_type, server, messages)?;
            }
            Ok::<_, SendError>(())
        })
        .await
    }

    /// Takes `m.direct_to_device` from another server. Known message ids are passed over, as are devices that do not exist.
    pub async fn receive_direct_to_device(&self, origin: &ServerName, content: &Value) -> Result<(), EduError> {
        let edu = DirectToDevice::deserialize(content).map_err(|error| EduError::Malformed(error.to_string()))?;
        if edu.sender.server_name() != origin || edu.sender.server_name() == self.server_name {
            return Err(EduError::NotTheirs);
        }
        if !is_storable(&edu.message_id) || edu.event_type.len() > 255 {
            return Err(EduError::Malformed("message_id or type".to_owned()));
        }
        let domain = Domain::Named { kind: "received_to_device", id: origin.to_string() };
        commit_guarded(&self.store, domain, |batch| {
            let row = (origin.to_owned(), edu.message_id.clone());
            if self.store.contains(&RECEIVED_TO_DEVICE, &row)? {
                return Ok(());
            }
            self.queue_received(batch, row)?;
            for (user, devices) in &edu.messages {
                let Ok(user) = OwnedUserId::try_from(user.as_str()) else { continue };
                if user.server_name() != self.server_name {
                    continue;
                }
                for (device, content) in devices {
                    let Ok(device) = DeviceIdOrAllDevices::try_from(device.as_str()) else { continue };
                    let Ok(content) = serde_json::value::to_raw_value(content) else { continue };
                    self.queue_local(batch, &edu.sender, &edu.event_type, &user, &device, &content)?;
                }
            }
            Ok::<_, EduError>(())
        })
        .await?;
        self.check_requesting_device(&edu).await
    }

    /// A key request from a device we have not heard of: an update of its owner's device list must have been lost.
    async fn check_requesting_device(&self, edu: &DirectToDevice) -> Result<(), EduError> {
        if edu.event_type != "m.room_key_request" {
            return Ok(());
        }
        for content in edu.messages.values().flat_map(BTreeMap::values) {
            if let Some(device) = content.get("requesting_device_id").and_then(Value::as_str)
                && is_storable(device)
                && self.keys.is_cached_without(&edu.sender, device)?
            {
                self.keys.mark_stale(&edu.sender).await?;
                self.keys.spawn_resync(edu.sender.clone());
                return Ok(());
            }
        }
        Ok(())
    }

    fn queue_local(
        &self,
        batch: &mut Batch,
        sender: &UserId,
        event_type: &str,
        user: &UserId,
        device: &DeviceIdOrAllDevices,
        content: &RawValue,
    ) -> Result<(), StoreError> {
        let mut devices: Vec<OwnedDeviceId> = Vec::new();
        match device {
            DeviceIdOrAllDevices::AllDevices => {
                for row in self.store.scan(&DEVICES, &(user.to_owned(),), Direction::Forward) {
                    devices.push(row?.0.1);
                }
            }
            DeviceIdOrAllDevices::DeviceId(device) => {
                if self.store.contains(&DEVICES, &(user.to_owned(), device.clone()))? {
                    devices.push(device.clone());
                }
            }
        }
        if devices.is_empty() {
            return Ok(());
        }
        let event = json!({ "content": content, "sender": sender, "type": event_type }).to_string();
        for device in devices {
            let position = batch.next_position();
            let delivery = Delivery { position, at_ms: self.clock.now_ms() };
            deliveries::queue_delivery(&self.store, batch, (user, &device), sender, delivery)?;
            batch.put(&TO_DEVICE, &(user.to_owned(), device, position), &event);
        }
        batch.wake(Topic::User(user.to_owned()));
        Ok(())
    }

    fn queue_transaction(
        &self,
        batch: &mut Batch,
        row: (OwnedUserId, OwnedDeviceId, String),
    ) -> Result<(), StoreError> {
        let now_ms = self.clock.now_ms();
        if self.is_time_to_forget(IdsOf::Device(row.0.clone(), row.1.clone()), now_ms) {
            self.queue_old_transactions_forgotten(batch, (&row.0, &row.1), now_ms)?;
        }
        batch.put(&TO_DEVICE_TRANSACTIONS, &row, &now_ms);
        batch.put(&TO_DEVICE_TRANSACTION_AGES, &(row.0, row.1, now_ms, row.2), &());
        Ok(())
    }

    /// Whether it was not looked for their old ids within the last second; it is to be done now.
    fn is_time_to_forget(&self, ids_of: IdsOf, now_ms: u64) -> bool {
        let looked_at_ms = self.looked_at_ms.get(&ids_of);
        let is_time = looked_at_ms.is_none_or(|looked_at_ms| looked_at_ms + FORGETTING_INTERVAL_MS <= now_ms);
        if is_time {
            self.looked_at_ms.insert(ids_of, now_ms);
        }
        is_time
    }

    fn queue_old_transactions_forgotten(
        &self,
        batch: &mut Batch,
        (user, device): (&UserId, &DeviceId),
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let old = self.store.scan_range(
            &TO_DEVICE_TRANSACTION_AGES,
            &(user.to_owned(), device.to_owned(), 0_u64),
            &(user.to_owned(), device.to_owned(), now_ms.saturating_sub(TRANSACTION_KEPT_MS)),
            Direction::Forward,
        );
        for old in old.take(FORGOTTEN_PER_WRITE_MAX) {
            let (key, ()) = old?;
            batch.delete(&TO_DEVICE_TRANSACTION_AGES, &key);
            batch.delete(&TO_DEVICE_TRANSACTIONS, &(key.0, key.1, key.3));
        }
        Ok(())
    }

    fn queue_received(&self, batch: &mut Batch, row: (OwnedServerName, String)) -> Result<(), StoreError> {
        let now_ms = self.clock.now_ms();
        if self.is_time_to_forget(IdsOf::Server(row.0.clone()), now_ms) {
            self.queue_old_received_forgotten(batch, &row.0, now_ms)?;
        }
        batch.put(&RECEIVED_TO_DEVICE, &row, &now_ms);
        batch.put(&RECEIVED_TO_DEVICE_AGES, &(row.0, now_ms, row.1), &());
        Ok(())
    }

    fn queue_old_received_forgotten(
        &self,
        batch: &mut Batch,
        server: &ServerName,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let old = self.store.scan_range(
            &RECEIVED_TO_DEVICE_AGES,
            &(server.to_owned(), 0_u64),
            &(server.to_owned(), now_ms.saturating_sub(RECEIVED_KEPT_MS)),
            Direction::Forward,
        );
        for old in old.take(FORGOTTEN_PER_WRITE_MAX) {
            let (key, ()) = old?;
            batch.delete(&RECEIVED_TO_DEVICE_AGES, &key);
            batch.delete(&RECEIVED_TO_DEVICE, &(key.0, key.2));
        }
        Ok(())
    }

    /// The messages for a device after `from` and up to `up_to`, at most `limit` of them.
    pub fn scan(
        &self,
        user: &UserId,
        device: &DeviceId,
        from: Position,
        up_to: Position,
        limit: usize,
    ) -> Result<Inbox, StoreError> {
        let mut inbox = Inbox { up_to: up_to.max(from), ..Inbox::default() };
        if from >= up_to {
            return Ok(inbox);
        }
        let rows = self.store.scan_range(
            &TO_DEVICE,
            &(user.to_owned(), device.to_owned(), from.next()),
            &(user.to_owned(), device.to_owned(), up_to.next()),
            Direction::Forward,
        );
        let mut last = from;
        for row in rows {
            let ((_, _, position), event) = row?;
            if inbox.events.len() >= limit {
                inbox.limited = true;
                inbox.up_to = last;
                break;
            }
            inbox.events.push(event);
            last = position;
        }
        Ok(inbox)
    }

    /// Whether any message waits for a device.
    pub fn has_messages(&self, user: &UserId, device: &DeviceId) -> Result<bool, StoreError> {
        let mut messages = self.store.scan(&TO_DEVICE, &(user.to_owned(), device.to_owned()), Direction::Forward);
        Ok(messages.next().transpose()?.is_some())
    }

    /// As [`ToDevice::scan`], up to what is durable by now.
    pub fn scan_durable(
        &self,
        user: &UserId,
        device: &DeviceId,
        from: Position,
        limit: usize,
    ) -> Result<Inbox, StoreError> {
        self.scan(user, device, from, self.store.durable_position(), limit)
    }

    /// Deletes the messages of a device up to a position it was given: called with the position of the token it syncs from.
    ///
    /// Does not wait for the disk: what a crash brings back is deleted by the same token again, and not given out after it.
    pub fn ack(&self, user: &UserId, device: &DeviceId, up_to: Position) -> Result<(), CommitError> {
        let start = (user.to_owned(), device.to_owned(), Position::ZERO);
        let end = (user.to_owned(), device.to_owned(), up_to.next());
        if self.store.scan_range(&TO_DEVICE, &start, &end, Direction::Forward).next().transpose()?.is_some() {
            let mut batch = Batch::new();
            batch.delete_range(&TO_DEVICE, &start, &end);
            deliveries::queue_acknowledged(&mut batch, user, device, up_to, self.clock.now_ms());
            let _flushed_later = self.store.enqueue(batch)?;
        }
        Ok(())
    }

    /// Queues messages to another server's users, in as many EDUs as their size asks for.
    fn queue_remote(
        &self,
        batch: &mut Batch,
        sender: &UserId,
        event_type: &str,
        server: &ServerName,
        messages: Vec<(&UserId, String, &RawValue)>,
    ) -> Result<(), SendError> {
        let mut pending = Pending::new();
        let mut pending_bytes = 0;
        for (user, device, content) in messages {
            let bytes = content.get().len() + user.as_str().len() + device.len() + 16;
            if bytes > EDU_BYTES_MAX {
                return Err(SendError::TooLarge);
            }
            if pending_bytes + bytes > EDU_BYTES_MAX {
                self.queue_direct(batch, sender, event_type, server, &std::mem::take(&mut pending))?;
                pending_bytes = 0;
            }
            pending_bytes += bytes;
            pending.entry(user).or_default().insert(device, content);
        }
        if !pending.is_empty() {
            self.queue_direct(batch, sender, event_type, server, &pending)?;
        }
        Ok(())
    }

    fn queue_direct(
        &self,
        batch: &mut Batch,
        sender: &UserId,
        event_type: &str,
        server: &ServerName,
        messages: &Pending<'_>,
    ) -> Result<(), StoreError> {
        let message_id = TransactionId::new();
        let content = json!({ "sender": sender, "type": event_type, "message_id": message_id, "messages": messages });
        let position = queue_edu(batch, server, "m.direct_to_device", content);
        let delivery = Delivery { position, at_ms: self.clock.now_ms() };
        for (user, devices) in messages {
            // Messages to all devices, or to ones that cannot be known here, are not noted.
            for device in devices.keys().filter(|device| *device != "*" && is_storable(device)) {
                deliveries::queue_delivery(&self.store, batch, (user, device.as_str().into()), sender, delivery)?;
            }
        }
        Ok(())
    }
}

/// Messages that will be in one EDU: user -> device -> content.
type Pending<'a> = BTreeMap<&'a UserId, BTreeMap<String, &'a RawValue>>;

#[cfg(test)]
#[path = "to_device_tests.rs"]
mod tests;
