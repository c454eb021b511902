//! Messages to devices. Written by the services' `to_device` module only.

use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId};

use crate::{ids::Position, table::Table};

/// Local user, device, position -> a message that the device has not acknowledged: `content`, `sender` and `type` as JSON text.
/// Deleted when the device syncs past it.
pub const TO_DEVICE: Table<(OwnedUserId, OwnedDeviceId, Position), String> = Table::new(73, "to_device");

/// Sending user, device, transaction id -> when it was handled, in milliseconds since the epoch. Kept for a day.
pub const TO_DEVICE_TRANSACTIONS: Table<(OwnedUserId, OwnedDeviceId, String), u64> =
    Table::new(74, "to_device_transactions");

/// Sending user, device, milliseconds, transaction id: the rows of [`TO_DEVICE_TRANSACTIONS`] by age.
pub const TO_DEVICE_TRANSACTION_AGES: Table<(OwnedUserId, OwnedDeviceId, u64, String), ()> =
    Table::new(75, "to_device_transaction_ages");

/// Server, `message_id` of an `m.direct_to_device` EDU from it -> when it was received, in milliseconds. Kept for a week.
pub const RECEIVED_TO_DEVICE: Table<(OwnedServerName, String), u64> = Table::new(76, "received_to_device");

/// Server, milliseconds, `message_id`: the rows of [`RECEIVED_TO_DEVICE`] by age.
pub const RECEIVED_TO_DEVICE_AGES: Table<(OwnedServerName, u64, String), ()> =
    Table::new(77, "received_to_device_ages");
