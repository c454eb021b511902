//! Server-side backup of room keys. Written by the services' `key_backup` module only, under the domain `key_backup` of the user.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::e2ee::JsonObject;
use crate::{record, record::Json, table::Table};

/// One version of a user's backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupVersionRecord {
    pub algorithm: String,
    /// A JSON object, as text.
    pub auth_data: String,
    /// Counts the changes of the backed up keys.
    pub etag: u64,
    /// How many keys the backup holds.
    pub count: u64,
    /// The row of a deleted version stays, so that its number is not given out again.
    pub deleted: bool,
}
record!(BackupVersionRecord, 1);

/// User, version (from 1) -> the backup. The current one is the last that is not deleted.
pub const BACKUP_VERSIONS: Table<(OwnedUserId, u64), BackupVersionRecord> = Table::new(78, "backup_versions");

/// User, version, room id, session id -> the encrypted key with its metadata, as uploaded. Grows with every room key a user has;
/// deleted with the version.
pub const BACKUP_KEYS: Table<(OwnedUserId, u64, String, String), Json<JsonObject>> = Table::new(79, "backup_keys");
