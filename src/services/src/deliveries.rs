//! Records of what became of keys on their way to devices, kept so that an operator can ask: [`crate::explain_delivery`].
//!
//! The last few of each kind, without contents. Nothing else reads them: what is delivered does not depend on them.

use std::{sync::Arc, time::Duration};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, CommitError, Direction, Position, Stamped, Store, StoreError,
    tables::deliveries::{
        AcknowledgedRecord, DELIVERIES, DeliveriesRecord, EarlierDelivery, KEY_CLAIMS, KeyClaim, TO_DEVICE_ACKNOWLEDGED,
    },
};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

/// How many messages of one user to one device are remembered.
const DELIVERIES_KEPT: usize = 8;
/// How many claims of one device's keys are remembered.
const CLAIMS_KEPT: usize = 20;
/// How long what is not of a local device is remembered after the last of it, in milliseconds.
const KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// How often what is old is looked for.
const CLEANING_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How many rows one batch deletes at most.
const DELETED_PER_BATCH: usize = 1_000;

/// A message that was queued for a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    pub position: Position,
    /// In milliseconds since the epoch.
    pub at_ms: u64,
}

/// Notes a message at this position, in the batch that queues it.
pub(crate) fn queue_delivery(
    store: &Store,
    batch: &mut Batch,
    to: (&UserId, &DeviceId),
    sender: &UserId,
    delivery: Delivery,
) -> Result<(), StoreError> {
    let row = (to.0.to_owned(), to.1.to_owned(), sender.to_owned());
    let mut earlier = Vec::new();
    if let Some(last) = store.get(&DELIVERIES, &row)? {
        earlier.push(EarlierDelivery { position: last.position.0, at_ms: last.value.at_ms });
        earlier.extend(last.value.earlier);
        earlier.truncate(DELIVERIES_KEPT - 1);
    }
    let value = DeliveriesRecord { at_ms: delivery.at_ms, earlier };
    batch.put(&DELIVERIES, &row, &Stamped { position: delivery.position, value });
    Ok(())
}

/// Notes a claim of one of a device's keys.
pub(crate) fn queue_claim(
    store: &Store,
    batch: &mut Batch,
    of: (&UserId, &DeviceId),
    claim: KeyClaim,
) -> Result<(), StoreError> {
    let row = (of.0.to_owned(), of.1.to_owned());
    let mut record = store.get(&KEY_CLAIMS, &row)?.unwrap_or_default();
    record.recent.insert(0, claim);
    record.recent.truncate(CLAIMS_KEPT);
    batch.put(&KEY_CLAIMS, &row, &record);
    Ok(())
}

/// Notes that a device has acknowledged its messages up to a position.
pub(crate) fn queue_acknowledged(batch: &mut Batch, user: &UserId, device: &DeviceId, up_to: Position, at_ms: u64) {
    let record = AcknowledgedRecord { position: up_to.0, at_ms };
    batch.put(&TO_DEVICE_ACKNOWLEDGED, &(user.to_owned(), device.to_owned()), &record);
}

/// Everything that was noted of a local device.
pub(crate) fn queue_deleted(batch: &mut Batch, user: &UserId, device: &DeviceId) {
    let row = (user.to_owned(), device.to_owned());
    batch.delete_prefix(&DELIVERIES, &row);
    batch.delete(&KEY_CLAIMS, &row);
    batch.delete(&TO_DEVICE_ACKNOWLEDGED, &row);
}

/// The last messages from a user to a device, newest first.
pub(crate) fn get_deliveries(
    store: &Store,
    to: (&UserId, &DeviceId),
    sender: &UserId,
) -> Result<Vec<Delivery>, StoreError> {
    let record = store.get(&DELIVERIES, &(to.0.to_owned(), to.1.to_owned(), sender.to_owned()))?;
    let Some(Stamped { position, value }) = record else { return Ok(Vec::new()) };
    let earlier = value.earlier.iter().map(|one| Delivery { position: Position(one.position), at_ms: one.at_ms });
    Ok(std::iter::once(Delivery { position, at_ms: value.at_ms }).chain(earlier).collect())
}

/// Deletes what is old, now and then, for ever.
pub async fn run(store: Store, clock: Arc<dyn Clock>) {
    loop {
        if let Err(error) = delete_old(&store, clock.now_ms()).await {
            tracing::warn!(%error, "old records of deliveries not deleted yet");
        }
        tokio::time::sleep(CLEANING_INTERVAL).await;
    }
}

async fn delete_old(store: &Store, now_ms: u64) -> Result<(), CommitError> {
    let is_old = |at_ms: u64| now_ms.saturating_sub(at_ms) > KEPT_MS;
    loop {
        let mut batch = Batch::new();
        let mut deleted = 0;
        for row in store.scan(&DELIVERIES, &(), Direction::Forward) {
            let (key, record) = row?;
            if is_old(record.value.at_ms) && deleted < DELETED_PER_BATCH {
                batch.delete(&DELIVERIES, &key);
                deleted += 1;
            }
        }
        for row in store.scan(&KEY_CLAIMS, &(), Direction::Forward) {
            let (key, record): ((OwnedUserId, OwnedDeviceId), _) = row?;
            if record.recent.first().is_none_or(|claim| is_old(claim.at_ms)) && deleted < DELETED_PER_BATCH {
                batch.delete(&KEY_CLAIMS, &key);
                deleted += 1;
            }
        }
        if deleted == 0 {
            return Ok(());
        }
        store.commit(batch).await?;
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;

    #[tokio::test]
    async fn last_messages_are_remembered_newest_first_until_they_are_old() {
        let store = Store::in_memory();
        let (to, sender) = ((user_id!("@bob:x"), device_id!("D")), user_id!("@alice:x"));
        for n in 0..DELIVERIES_KEPT as u64 + 3 {
            let mut batch = Batch::new();
            let position = batch.next_position();
            queue_delivery(&store, &mut batch, to, sender, Delivery { position, at_ms: 1_000 + n }).unwrap();
            let claim = KeyClaim { at_ms: 1_000 + n, by: "y".to_owned(), key_id: None };
            queue_claim(&store, &mut batch, to, claim).unwrap();
            store.commit(batch).await.unwrap();
        }
        let known = get_deliveries(&store, to, sender).unwrap();
        assert_eq!(known.len(), DELIVERIES_KEPT);
        assert!(known.is_sorted_by(|one, other| one.position > other.position && one.at_ms > other.at_ms));
        assert_eq!(known[0].position, store.durable_position());

        delete_old(&store, KEPT_MS + 1_005).await.unwrap();
        assert_eq!(get_deliveries(&store, to, sender).unwrap().len(), DELIVERIES_KEPT);
        delete_old(&store, KEPT_MS + 2_000).await.unwrap();
        assert!(get_deliveries(&store, to, sender).unwrap().is_empty());
        assert_eq!(store.scan(&KEY_CLAIMS, &(), Direction::Forward).count(), 0);
    }
}
