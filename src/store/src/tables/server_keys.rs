//! Signing keys of other servers.
//!
//! | table | key | value |
//! |---|---|---|
//! | `SERVER_KEYS` (81) | server name, key id | the public key and how long it is good for |
//! | `SERVER_KEY_DOCUMENTS` (83) | server name | the last signed key document, as received |
//!
//! Written and read by the federation's key service. Keys are never deleted: old events need them. One document a server.

use bytes::Bytes;
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

use crate::Table;

/// Every key ever seen, by server and key id (such as `ed25519:abc`).
pub const SERVER_KEYS: Table<(OwnedServerName, String), ServerKeyRecord> = Table::new(81, "server_keys");

/// The newest key document of a server: canonical JSON with the server's own signatures, to answer notary queries from.
pub const SERVER_KEY_DOCUMENTS: Table<OwnedServerName, Bytes> = Table::new(83, "server_key_documents");

/// One public key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerKeyRecord {
    /// The raw public key.
    pub key: Vec<u8>,
    /// Good for requests and events up to this instant, in milliseconds since the epoch; for a retired key its `expired_ts`.
    pub valid_until_ms: u64,
    /// Listed under `old_verify_keys`: good for old events only, never for requests.
    pub retired: bool,
    /// When it was fetched, in milliseconds since the epoch.
    pub fetched_ms: u64,
}

crate::record!(ServerKeyRecord, 1);
