//! How well keys reach their devices, counted for whoever watches the server: what waits, and who cannot be written to.
//!
//! Counting reads whole tables: it is for a look every minute or so, off the threads that serve requests. Why one message cannot be
//! read [`crate::explain_delivery`] tells.

use std::collections::BTreeMap;

use chappe_store::{
    Direction, Position, Store, StoreError,
    tables::{
        destinations::DESTINATIONS,
        e2ee::{DEVICE_KEYS, FALLBACK_KEYS, ONE_TIME_KEY_PLACES, STALE_DEVICE_LISTS},
        outgoing::{OUTGOING, OutgoingItem},
    },
};
use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId};
use serde::Deserialize;

use crate::deliveries::get_deliveries;

/// How many rows of outgoing things are looked through in all.
const OUTGOING_SCANNED_MAX: usize = 500_000;

/// The messages to devices that wait to be sent to one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    pub edus: u64,
    /// When the oldest was queued, in milliseconds since the epoch, as far as that is remembered.
    pub oldest_at_ms: u64,
}

/// One count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeliveryHealth {
    /// By the server they wait for.
    pub waiting: BTreeMap<OwnedServerName, Waiting>,
    /// Local devices with identity keys, without one-time keys and without a fallback key: nobody can begin a session with them.
    pub devices_without_keys: u64,
    /// Local devices with a fallback key only.
    pub devices_on_fallback: u64,
    /// Remote users whose device lists are known to be out of date.
    pub stale_lists: u64,
}

/// Of an EDU, what is needed to find its record.
#[derive(Deserialize)]
struct Outgoing {
    edu_type: String,
    content: OutgoingContent,
}

#[derive(Deserialize)]
struct OutgoingContent {
    sender: Option<OwnedUserId>,
    messages: Option<BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, serde::de::IgnoredAny>>>,
}

/// Counts, as of now.
pub fn count(store: &Store, now_ms: u64) -> Result<DeliveryHealth, StoreError> {
    let mut health = DeliveryHealth::default();
    for row in store.scan(&OUTGOING, &(), Direction::Forward).take(OUTGOING_SCANNED_MAX) {
        let ((server, position), item) = row?;
        let OutgoingItem::Edu(edu) = item else { continue };
        if !edu.contains("m.direct_to_device") {
            continue;
        }
        let Ok(edu) = serde_json::from_str::<Outgoing>(&edu) else { continue };
        if edu.edu_type != "m.direct_to_device" {
            continue;
        }
        if let Some(waiting) = health.waiting.get_mut(&server) {
            waiting.edus += 1;
            continue;
        }
        // The first is the oldest.
        let oldest_at_ms = match queued_at_ms(store, position, &edu.content)? {
            Some(at_ms) => at_ms,
            None => store.get(&DESTINATIONS, &server)?.map_or(now_ms, |failing| failing.failing_since_ms),
        };
        health.waiting.insert(server, Waiting { edus: 1, oldest_at_ms });
    }
    for row in store.scan(&DEVICE_KEYS, &(), Direction::Forward) {
        let (device, _) = row?;
        if store.scan(&ONE_TIME_KEY_PLACES, &device, Direction::Forward).next().transpose()?.is_some() {
            continue;
        }
        match store.scan(&FALLBACK_KEYS, &device, Direction::Forward).next().transpose()? {
            Some(_) => health.devices_on_fallback += 1,
            None => health.devices_without_keys += 1,
        }
    }
    for row in store.scan(&STALE_DEVICE_LISTS, &(), Direction::Forward) {
        row?;
        health.stale_lists += 1;
    }
    Ok(health)
}

/// When a message was queued, by the records of deliveries: that of the message itself, or the oldest that is left.
fn queued_at_ms(store: &Store, position: Position, content: &OutgoingContent) -> Result<Option<u64>, StoreError> {
    let (Some(sender), Some(messages)) = (&content.sender, &content.messages) else { return Ok(None) };
    let mut devices = messages.iter().flat_map(|(user, devices)| devices.keys().map(move |device| (user, device)));
    let Some((user, device)) = devices.next() else { return Ok(None) };
    let deliveries = get_deliveries(store, (user, device), sender)?;
    let own = deliveries.iter().find(|delivery| delivery.position <= position);
    Ok(own.or(deliveries.last()).map(|delivery| delivery.at_ms))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chappe_protocol::clock::{Clock, ManualClock};
    use chappe_store::Batch;
    use ruma::{TransactionId, owned_server_name, serde::Raw, server_name, to_device::DeviceIdOrAllDevices, user_id};
    use serde_json::json;

    use super::*;
    use crate::{
        keys::{
            DeviceKeysUpload,
            testing::{Bench, device_keys, raw},
        },
        to_device::{Messages, ToDevice},
    };

    #[tokio::test]
    async fn what_waits_and_who_cannot_be_written_to_is_counted() {
        let bench = Bench::new();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let server = owned_server_name!("ours.example");
        let to_device = ToDevice::new(bench.store.clone(), server, clock.clone(), bench.keys.clone());
        assert_eq!(count(&bench.store, 0).unwrap(), DeliveryHealth::default());

        let (alice, remy) = (user_id!("@alice:ours.example"), user_id!("@remy:remote.example"));
        for _ in 0..2 {
            let content = Raw::from_json(serde_json::value::to_raw_value(&json!({})).unwrap());
            let devices = [(DeviceIdOrAllDevices::DeviceId("LAPTOP".into()), content)].into();
            let messages = Messages::from([(remy.to_owned(), devices)]);
            to_device.send(alice, "A".into(), "m.test", &TransactionId::new(), &messages).await.unwrap();
            clock.advance(5_000);
        }
        for (device, with_key) in [("NONE", None), ("BACK", Some("fallback")), ("SOME", Some("one-time"))] {
            let keys = [("signed_curve25519:K".to_owned().try_into().unwrap(), raw(&json!({ "key": device })))];
            let mut upload = DeviceKeysUpload {
                device_keys: Some(raw(&device_keys(alice, device, "k"))),
                ..DeviceKeysUpload::default()
            };
            match with_key {
                Some("fallback") => upload.fallback_keys = keys.into(),
                Some(_) => upload.one_time_keys = keys.into(),
                None => {}
            }
            bench.keys.upload(alice, device.into(), upload).await.unwrap();
        }
        let mut batch = Batch::new();
        batch.put(&STALE_DEVICE_LISTS, &(owned_server_name!("remote.example"), remy.to_owned()), &());
        bench.store.commit(batch).await.unwrap();

        let health = count(&bench.store, clock.now_ms()).unwrap();
        let waiting = health.waiting[server_name!("remote.example")];
        assert_eq!(waiting, Waiting { edus: 2, oldest_at_ms: 1_700_000_000_000 });
        assert_eq!((health.devices_without_keys, health.devices_on_fallback, health.stale_lists), (1, 1, 1));
    }
}
