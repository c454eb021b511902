//! The devices that poll: the messages that wait for them, and how many keys they have left. Both are part of each answer, and most polls find that
//! neither has changed; so what was found is kept, and tables are looked through only when something has happened to the user.

use std::sync::Arc;

use chappe_store::{CommitError, Position, Store, StoreError};
use quick_cache::sync::Cache;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{
    KeyCounts,
    waiters::{Activity, Waiters},
};
use crate::{
    keys::{one_time_key_counts, unused_fallback_key_types},
    to_device::{Inbox, ToDevice},
};

/// How many devices are kept.
const DEVICES_MAX: usize = 20_000;

/// The devices that poll. Cheap to clone.
#[derive(Clone)]
pub struct PollingDevices {
    store: Store,
    to_device: Arc<ToDevice>,
    waiters: Waiters,
    known: Arc<Cache<(OwnedUserId, OwnedDeviceId), Known>>,
}

/// A device as of some position.
#[derive(Clone)]
struct Known {
    as_of: Position,
    key_counts: Arc<KeyCounts>,
    has_messages: bool,
}

impl PollingDevices {
    pub fn new(store: Store, to_device: Arc<ToDevice>, waiters: Waiters) -> Self {
        Self { store, to_device, waiters, known: Arc::new(Cache::new(DEVICES_MAX)) }
    }

    pub(crate) fn get_key_counts(&self, user: &UserId, device: &DeviceId) -> Result<Arc<KeyCounts>, StoreError> {
        Ok(self.get(user, device)?.key_counts)
    }

    /// The messages that wait for a device: see [`ToDevice::scan`].
    pub(crate) fn scan_messages(
        &self,
        user: &UserId,
        device: &DeviceId,
        from: Position,
        up_to: Position,
        limit: usize,
    ) -> Result<Inbox, StoreError> {
        match self.get(user, device)?.has_messages {
            true => self.to_device.scan(user, device, from, up_to, limit),
            false => Ok(Inbox { up_to: up_to.max(from), ..Inbox::default() }),
        }
    }

    /// The device has the answer that its token came with: the messages in it are deleted.
    pub(crate) fn acknowledge(&self, user: &UserId, device: &DeviceId, up_to: Position) -> Result<(), StoreError> {
        if !self.get(user, device)?.has_messages {
            return Ok(());
        }
        match self.to_device.ack(user, device, up_to) {
            // Nobody is woken for it.
            Ok(()) => drop(self.known.remove(&(user.to_owned(), device.to_owned()))),
            // They are not given out again in any case; a later sync deletes them.
            Err(error @ CommitError::Conflict) => tracing::debug!(%error, "messages to a device not deleted yet"),
            Err(error) => tracing::warn!(%error, "messages to a device not deleted yet"),
        }
        Ok(())
    }

    fn get(&self, user: &UserId, device: &DeviceId) -> Result<Known, StoreError> {
        let key = (user.to_owned(), device.to_owned());
        if let Some(known) = self.known.get(&key)
            && self.waiters.user_activity(user, known.as_of) == Activity::None
        {
            return Ok(known);
        }
        // Before the reading: what is written meanwhile is newer than this.
        let as_of = self.waiters.position();
        let key_counts = Arc::new(KeyCounts {
            one_time_keys: one_time_key_counts(&self.store, user, device)?,
            unused_fallback_key_types: unused_fallback_key_types(&self.store, user, device)?,
        });
        let has_messages = self.to_device.has_messages(user, device)?;
        let known = Known { as_of, key_counts, has_messages };
        self.known.insert(key, known.clone());
        Ok(known)
    }
}
