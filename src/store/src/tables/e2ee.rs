//! End-to-end encryption: public keys of devices and users, and who must hear of their changes.
//!
//! Written by the services' `keys` module only. Everything of one local user changes under that user's account domain. Keys are
//! kept as the JSON objects that were uploaded, because clients check signatures over them.

use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{ids::Position, record, record::Json, table::Table};

/// A JSON object as a client or server sent it.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// Local user, device -> its identity keys, as uploaded. One row a device.
pub const DEVICE_KEYS: Table<(OwnedUserId, OwnedDeviceId), Json<JsonObject>> = Table::new(60, "device_keys").cached();

/// A one-time key that nobody has claimed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OneTimeKeyRecord {
    /// The part of the key's name after the colon.
    pub key_id: String,
    /// The key as uploaded: a JSON string or object.
    pub json: String,
}
record!(OneTimeKeyRecord, 1);

/// Local user, device, algorithm, position of the upload -> key. Claimed from the front, and deleted by the claim.
pub const ONE_TIME_KEYS: Table<(OwnedUserId, OwnedDeviceId, String, Position), OneTimeKeyRecord> =
    Table::new(61, "one_time_keys");

/// Local user, device, algorithm, key id -> where the key stands in [`ONE_TIME_KEYS`]: the same rows, by name.
pub const ONE_TIME_KEY_PLACES: Table<(OwnedUserId, OwnedDeviceId, String, String), Position> =
    Table::new(62, "one_time_key_places");

/// Local user, device, algorithm -> how many [`ONE_TIME_KEYS`] there are. Told by every sync.
pub const ONE_TIME_KEY_COUNTS: Table<(OwnedUserId, OwnedDeviceId, String), u64> =
    Table::new(221, "one_time_key_counts");

/// Local user, device, algorithm, hash of a public key (128 bits) -> where it was claimed: so that a key which is uploaded again is not
/// given out again. The newest of each device are kept.
pub const CLAIMED_ONE_TIME_KEYS: Table<(OwnedUserId, OwnedDeviceId, String, [u8; 16]), Position> =
    Table::new(146, "claimed_one_time_keys");

/// The key that is given out when the one-time keys are used up.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FallbackKeyRecord {
    pub key_id: String,
    pub json: String,
    /// It was given out since it was uploaded.
    pub used: bool,
}
record!(FallbackKeyRecord, 1);

/// Local user, device, algorithm -> fallback key.
pub const FALLBACK_KEYS: Table<(OwnedUserId, OwnedDeviceId, String), FallbackKeyRecord> =
    Table::new(63, "fallback_keys");

/// User, usage (`master`, `self_signing` or `user_signing`) -> cross-signing key. Of local users as uploaded; of remote users as
/// their server told, without `user_signing`.
pub const CROSS_SIGNING_KEYS: Table<(OwnedUserId, String), Json<JsonObject>> =
    Table::new(64, "cross_signing_keys").cached();

/// Signed user, signed device id or master key, local signer, name of the signing key -> signature. Signatures that came through
/// `/keys/signatures/upload`: of a user's own devices and master key, and of other users' master keys.
pub const KEY_SIGNATURES: Table<(OwnedUserId, String, OwnedUserId, String), String> = Table::new(65, "key_signatures");

/// Position -> a user, local or remote, whose devices or cross-signing keys changed there. Read by sync. Holds the latest change
/// of each user only, apart from what races leave behind.
pub const DEVICE_LIST_LOG: Table<Position, OwnedUserId> = Table::new(66, "device_list_log");

/// User -> the user's row in [`DEVICE_LIST_LOG`].
pub const DEVICE_LIST_LATEST: Table<OwnedUserId, Position> = Table::new(67, "device_list_latest").cached();

/// Local user, position -> a user whose keys look different to this local user alone: signed by the user-signing key, or the
/// own user when the user-signing key itself changed. Read by the local user's sync.
pub const SIGNATURE_LOG: Table<(OwnedUserId, Position), OwnedUserId> = Table::new(68, "signature_log");

/// Local user -> the `stream_id` of the last `m.device_list_update`, counted from 1 for each user.
pub const DEVICE_LIST_STREAM: Table<OwnedUserId, u64> = Table::new(69, "device_list_stream").cached();

/// What this server knows of a remote user's device list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteDeviceListRecord {
    /// The `stream_id` up to which the list is complete.
    pub stream_id: u64,
    /// The log position before the whole list was last fetched: the list can be relied on while the user has been in a room
    /// with this server since then.
    pub fetched_at: u64,
}
record!(RemoteDeviceListRecord, 1);

/// Remote user -> the state of the cached device list. No row: nothing is cached.
pub const REMOTE_DEVICE_LISTS: Table<OwnedUserId, RemoteDeviceListRecord> =
    Table::new(70, "remote_device_lists").cached();

/// A remote user's device.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RemoteDevice {
    pub keys: JsonObject,
    pub display_name: Option<String>,
}

/// Remote user, device -> what is cached of it. Devices without keys are not kept.
pub const REMOTE_DEVICES: Table<(OwnedUserId, OwnedDeviceId), Json<RemoteDevice>> = Table::new(71, "remote_devices");

/// Server, its user: an update of the user's device list was missed, and the list is yet to be fetched anew.
pub const STALE_DEVICE_LISTS: Table<(OwnedServerName, OwnedUserId), ()> = Table::new(72, "stale_device_lists");

/// A device that was left with the server, to receive keys while its user has no other (MSC3814).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DehydratedDeviceRecord {
    pub device_id: OwnedDeviceId,
    /// What its client needs to bring it back, as JSON text; encrypted for that client.
    pub data: String,
}
record!(DehydratedDeviceRecord, 1);

/// Local user -> dehydrated device. The device itself has rows like any other. Goes with the device.
pub const DEHYDRATED_DEVICES: Table<OwnedUserId, DehydratedDeviceRecord> = Table::new(181, "dehydrated_devices");
