//! Public keys for end-to-end encryption: devices' identity keys, one-time keys, cross-signing keys, and who must hear when they
//! change.
//!
//! The server only keeps and hands out keys. It checks signatures where a forged one would reach other users, and otherwise
//! leaves trust to clients.
//!
//! Start with [`Keys`], which clients and other servers ask; [`DeviceLists`] is what sync asks. The functions named `queue_` put
//! their rows and EDUs into the batch of whoever changes a device.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, CommitError, Position, Store, StoreError, Topic,
    tables::{
        e2ee::JsonObject,
        outgoing::{OUTGOING, OutgoingItem},
    },
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UserId,
    api::federation::{
        device::get_devices,
        keys::{claim_keys, get_keys},
    },
};
use serde_json::Value;

mod changes;
mod cross_signing;
mod dehydrated;
mod device_keys;
mod device_lists;
mod federation;
mod newly_sharing;
mod one_time_keys;
mod partial_rooms;
mod remote_lists;
mod sharing;
mod signature;

pub use changes::{DeviceListChanges, DeviceLists};
pub use cross_signing::{Reauthentication, SignatureFailure, SignatureFailures, SigningKeys, SigningKeysError};
pub use dehydrated::{DehydrateError, NewDehydratedDevice, messages_token, parse_messages_token};
pub use device_keys::{DeviceKeysUpload, UploadError};
pub use device_lists::{queue_device_added, queue_device_deleted, queue_device_renamed, queue_devices_deleted};
pub use newly_sharing::Introductions;
pub use one_time_keys::{one_time_key_counts, unused_fallback_key_types};
pub use remote_lists::{EduError, ResyncError};
pub(crate) use sharing::shared_rooms_of_remote;

/// How long a request to another server may take when the client does not say.
pub const REMOTE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// The longest a client may ask this server to wait for others.
pub const REMOTE_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// A request to another server that brought no usable answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct FetchError {
    /// For the log and the client's `failures`; holds no secrets.
    pub message: String,
    /// The other server's HTTP status, if it answered.
    pub status: Option<u16>,
}

pub type FetchFuture<'a, T> = BoxFuture<'a, Result<T, FetchError>>;

/// What keys need of other servers.
pub trait KeyFederation: Send + Sync + 'static {
    /// `POST /user/keys/query`
    fn fetch_keys<'a>(
        &'a self,
        server: &'a ServerName,
        request: get_keys::v1::Request,
        timeout: Duration,
    ) -> FetchFuture<'a, get_keys::v1::Response>;

    /// `POST /user/keys/claim`
    fn fetch_claimed_keys<'a>(
        &'a self,
        server: &'a ServerName,
        request: claim_keys::v1::Request,
        timeout: Duration,
    ) -> FetchFuture<'a, claim_keys::v1::Response>;

    /// `GET /user/devices/{userId}`
    fn fetch_devices<'a>(
        &'a self,
        server: &'a ServerName,
        request: get_devices::v1::Request,
        timeout: Duration,
    ) -> FetchFuture<'a, get_devices::v1::Response>;
}

/// A read or a write of keys that failed for reasons of this server's own.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The keys of local users, and what is known of remote ones. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    pub(crate) store: Store,
    server_name: OwnedServerName,
    federation: Arc<dyn KeyFederation>,
    /// Absent: claims of keys are not noted.
    clock: Option<Arc<dyn Clock>>,
    shares_device_names: bool,
    /// One lock for each remote user whose device list is being changed or fetched.
    remote_locks: Arc<Mutex<HashMap<OwnedUserId, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Keys {
    pub fn new(store: Store, server_name: OwnedServerName, federation: Arc<dyn KeyFederation>) -> Self {
        Self { store, server_name, federation, clock: None, shares_device_names: false, remote_locks: Arc::default() }
    }

    /// Whether other servers are told devices' names. They are not unless this is called.
    pub fn sharing_device_names(self, shares_device_names: bool) -> Self {
        Self { shares_device_names, ..self }
    }

    /// Notes who claims keys, for [`crate::explain_delivery`].
    pub fn noting_claims(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    pub(crate) fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name
    }
}

/// Hands an EDU to the federation sender, inside the batch that made it true; where it stands in the log.
pub(crate) fn queue_edu(batch: &mut Batch, server: &ServerName, edu_type: &str, content: Value) -> Position {
    let edu = serde_json::json!({ "edu_type": edu_type, "content": content }).to_string();
    let position = batch.next_position();
    batch.put(&OUTGOING, &(server.to_owned(), position), &OutgoingItem::Edu(edu));
    batch.wake(Topic::Destination(server.to_owned()));
    position
}

/// Whether a string of another's making can be part of a key in the store.
pub(crate) fn is_storable(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && !text.contains('\0')
}

/// The objects in `failures` of an answer to a client.
pub(crate) fn failure_json(error: &FetchError) -> Value {
    serde_json::json!({ "status": error.status.unwrap_or(503), "message": error.message })
}

/// Groups what is asked of remote users by their servers.
pub(crate) fn by_server<T>(users: BTreeMap<OwnedUserId, T>) -> BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>> {
    let mut servers: BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>> = BTreeMap::new();
    for (user, value) in users {
        servers.entry(user.server_name().to_owned()).or_default().insert(user, value);
    }
    servers
}

/// A stored JSON object as raw JSON of ruma's type for it.
pub(crate) fn to_raw<T>(object: &JsonObject) -> Option<ruma::serde::Raw<T>> {
    serde_json::value::to_raw_value(object).ok().map(ruma::serde::Raw::from_json)
}

/// The log position in a sync token: the digits after its `s`.
///
/// Anything after the digits is left to sync, which makes the tokens. `None`: not a sync token.
pub fn parse_sync_token(token: &str) -> Option<Position> {
    let digits = token.strip_prefix('s')?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end)?.parse().ok().map(Position)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
