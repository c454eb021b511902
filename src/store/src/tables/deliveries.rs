//! What became of keys on their way to devices: for operators who ask why a device cannot read a message. Written by the services' `deliveries`
//! module, in the batches of `keys` and `to_device`.
//!
//! Rows go with a local device, and in any case a month after the last thing noted in them.

use ruma::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{record, record::Stamped, table::Table};

/// A message to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EarlierDelivery {
    pub position: u64,
    /// In milliseconds since the epoch.
    pub at_ms: u64,
}

/// The last messages from one user to one device; the stamp is the position of the last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeliveriesRecord {
    /// When the last was queued, in milliseconds since the epoch.
    pub at_ms: u64,
    /// A few before it, newest first.
    pub earlier: Vec<EarlierDelivery>,
}
record!(DeliveriesRecord, 1);

/// Receiving user, device, sending user -> the last messages queued, here for a local device or for the server of a remote one.
pub const DELIVERIES: Table<(OwnedUserId, OwnedDeviceId, OwnedUserId), Stamped<DeliveriesRecord>> =
    Table::new(148, "deliveries");

/// One claim of a one-time key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyClaim {
    /// In milliseconds since the epoch.
    pub at_ms: u64,
    /// The local user who claimed, or the other server.
    pub by: String,
    /// The key that was given; `None`: there was none, or the device's server did not answer.
    pub key_id: Option<String>,
}

/// The last claims of a device's keys, newest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeyClaimsRecord {
    pub recent: Vec<KeyClaim>,
}
record!(KeyClaimsRecord, 1);

/// User, device -> the last claims of the device's keys: by anybody for a local device, by users of this server for a remote one.
pub const KEY_CLAIMS: Table<(OwnedUserId, OwnedDeviceId), KeyClaimsRecord> = Table::new(149, "key_claims");

/// Up to where a device has acknowledged its messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AcknowledgedRecord {
    pub position: u64,
    /// In milliseconds since the epoch.
    pub at_ms: u64,
}
record!(AcknowledgedRecord, 1);

/// Local user, device -> the last time that the device acknowledged messages.
pub const TO_DEVICE_ACKNOWLEDGED: Table<(OwnedUserId, OwnedDeviceId), AcknowledgedRecord> =
    Table::new(171, "to_device_acknowledged");
