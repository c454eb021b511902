//! Server-side backup of room keys. The server keeps encrypted keys by room and session, and cannot read them.
//!
//! Spec: Client-Server API, Server-side key backups.

use std::collections::BTreeMap;

use chappe_store::{
    Batch, CommitError, Direction, Domain, Store, StoreError,
    record::Json,
    tables::key_backup::{BACKUP_KEYS, BACKUP_VERSIONS, BackupVersionRecord},
};
use ruma::UserId;
use serde_json::Value;

pub use chappe_store::tables::e2ee::JsonObject;

use crate::guarded::commit_guarded;
use crate::keys::is_storable;

/// Room id -> session id -> the encrypted key and its metadata.
pub type BackupRooms = BTreeMap<String, BTreeMap<String, JsonObject>>;

/// A version of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupVersion {
    pub version: String,
    pub algorithm: String,
    pub auth_data: JsonObject,
    /// How many keys it holds.
    pub count: u64,
    /// Differs whenever the keys differ.
    pub etag: String,
}

/// What a change of the backed up keys is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupState {
    pub count: u64,
    pub etag: String,
}

/// Which keys are meant.
#[derive(Debug, Clone, Copy)]
pub enum BackupSelection<'a> {
    All,
    Room(&'a str),
    Session { room: &'a str, session: &'a str },
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// `M_NOT_FOUND`
    #[error("there is no such backup version")]
    UnknownVersion,
    /// `M_NOT_FOUND`
    #[error("there is no such key in the backup")]
    UnknownKey,
    /// `M_WRONG_ROOM_KEYS_VERSION`
    #[error("keys can only be added to the current version, {current_version}")]
    WrongVersion { current_version: String },
    /// `M_INVALID_PARAM`
    #[error("the algorithm of a version cannot change")]
    AlgorithmChanged,
    /// `M_BAD_JSON`
    #[error("the key of session {session} is malformed")]
    BadKey { session: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Keeps users' backups. Cheap to clone.
#[derive(Clone)]
pub struct KeyBackup {
    store: Store,
}

impl KeyBackup {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Makes a new version, which becomes the current one.
    pub async fn create_version(
        &self,
        user: &UserId,
        algorithm: &str,
        auth_data: &JsonObject,
    ) -> Result<String, BackupError> {
        self.commit(user, |batch| {
            let last = self.store.scan(&BACKUP_VERSIONS, &(user.to_owned(),), Direction::Reverse).next().transpose()?;
            let version = last.map_or(1, |((_, version), _)| version + 1);
            let record = BackupVersionRecord {
                algorithm: algorithm.to_owned(),
                auth_data: Value::Object(auth_data.clone()).to_string(),
                etag: 0,
                count: 0,
                deleted: false,
            };
            batch.put(&BACKUP_VERSIONS, &(user.to_owned(), version), &record);
            Ok(version.to_string())
        })
        .await
    }

    /// The current version.
    pub fn get_current_version(&self, user: &UserId) -> Result<BackupVersion, BackupError> {
        let (version, record) = self.find_current(user)?.ok_or(BackupError::UnknownVersion)?;
        Ok(describe(version, record))
    }

    pub fn get_version(&self, user: &UserId, version: &str) -> Result<BackupVersion, BackupError> {
        let (version, record) = self.find(user, version)?;
        Ok(describe(version, record))
    }

    /// Changes what a version's keys are authenticated with.
    pub async fn update_version(
        &self,
        user: &UserId,
        version: &str,
        algorithm: &str,
        auth_data: &JsonObject,
    ) -> Result<(), BackupError> {
        self.commit(user, |batch| {
            let (version, mut record) = self.find(user, version)?;
            if record.algorithm != algorithm {
                return Err(BackupError::AlgorithmChanged);
            }
            record.auth_data = Value::Object(auth_data.clone()).to_string();
            batch.put(&BACKUP_VERSIONS, &(user.to_owned(), version), &record);
            Ok(())
        })
        .await
    }

    /// Deletes a version and its keys. The version before it becomes the current one, if it was the last.
    pub async fn delete_version(&self, user: &UserId, version: &str) -> Result<(), BackupError> {
        self.commit(user, |batch| {
            let (version, mut record) = self.find(user, version)?;
            record.deleted = true;
            record.count = 0;
            batch.delete_prefix(&BACKUP_KEYS, &(user.to_owned(), version));
            batch.put(&BACKUP_VERSIONS, &(user.to_owned(), version), &record);
            Ok(())
        })
        .await
    }

    /// Adds keys to the current version. A key that is there already is replaced only by a better one.
    pub async fn put_keys(
        &self,
        user: &UserId,
        version: &str,
        rooms: &BackupRooms,
    ) -> Result<BackupState, BackupError> {
        for (room, sessions) in rooms {
            for (session, key) in sessions {
                if !is_storable(room) || !is_storable(session) || Rank::of(key).is_none() {
                    return Err(BackupError::BadKey { session: session.clone() });
                }
            }
        }
        self.commit(user, |batch| {
            let (current, _) = self.find_current(user)?.ok_or(BackupError::UnknownVersion)?;
            let (version, mut record) = self.find(user, version)?;
            if version != current {
                return Err(BackupError::WrongVersion { current_version: current.to_string() });
            }
            let mut changed = false;
            for (room, sessions) in rooms {
                for (session, key) in sessions {
                    let row = (user.to_owned(), version, room.clone(), session.clone());
                    match self.store.get(&BACKUP_KEYS, &row)? {
                        Some(Json(existing)) if !is_better(key, &existing) => continue,
                        Some(_) => {}
                        None => record.count += 1,
                    }
                    batch.put(&BACKUP_KEYS, &row, &Json(key.clone()));
                    changed = true;
                }
            }
            if changed {
                record.etag += 1;
                batch.put(&BACKUP_VERSIONS, &(user.to_owned(), version), &record);
            }
            Ok(state(&record))
        })
        .await
    }

    /// The keys of a version. A session that is not there is an error; a room or backup without keys is empty.
    pub fn get_keys(
        &self,
        user: &UserId,
        version: &str,
        selection: BackupSelection<'_>,
    ) -> Result<BackupRooms, BackupError> {
        let (version, _) = self.find(user, version)?;
        let mut rooms = BackupRooms::new();
        for row in self.select(user, version, selection)? {
            let ((_, _, room, session), key) = row;
            rooms.entry(room).or_default().insert(session, key);
        }
        if rooms.is_empty() && matches!(selection, BackupSelection::Session { .. }) {
            return Err(BackupError::UnknownKey);
        }
        Ok(rooms)
    }

    pub async fn delete_keys(
        &self,
        user: &UserId,
        version: &str,
        selection: BackupSelection<'_>,
    ) -> Result<BackupState, BackupError> {
        self.commit(user, |batch| {
            let (version, mut record) = self.find(user, version)?;
            let rows = self.select(user, version, selection)?;
            if !rows.is_empty() {
                for (key, _) in &rows {
                    batch.delete(&BACKUP_KEYS, key);
                }
                record.count = record.count.saturating_sub(u64::try_from(rows.len()).unwrap_or(u64::MAX));
                record.etag += 1;
                batch.put(&BACKUP_VERSIONS, &(user.to_owned(), version), &record);
            }
            Ok(state(&record))
        })
        .await
    }

    async fn commit<T>(
        &self,
        user: &UserId,
        attempt: impl FnMut(&mut Batch) -> Result<T, BackupError>,
    ) -> Result<T, BackupError> {
        commit_guarded(&self.store, Domain::Named { kind: "key_backup", id: user.to_string() }, attempt).await
    }

    fn find(&self, user: &UserId, version: &str) -> Result<(u64, BackupVersionRecord), BackupError> {
        let version = version.parse().map_err(|_| BackupError::UnknownVersion)?;
        let record = self.store.get(&BACKUP_VERSIONS, &(user.to_owned(), version))?;
        record.filter(|record| !record.deleted).map(|record| (version, record)).ok_or(BackupError::UnknownVersion)
    }

    fn find_current(&self, user: &UserId) -> Result<Option<(u64, BackupVersionRecord)>, StoreError> {
        for row in self.store.scan(&BACKUP_VERSIONS, &(user.to_owned(),), Direction::Reverse) {
            let ((_, version), record) = row?;
            if !record.deleted {
                return Ok(Some((version, record)));
            }
        }
        Ok(None)
    }

    #[allow(clippy::type_complexity)]
    fn select(
        &self,
        user: &UserId,
        version: u64,
        selection: BackupSelection<'_>,
    ) -> Result<Vec<((ruma::OwnedUserId, u64, String, String), JsonObject)>, StoreError> {
        let user = user.to_owned();
        let mut rows = Vec::new();
        match selection {
            BackupSelection::Session { room, session } => {
                let key = (user, version, room.to_owned(), session.to_owned());
                if let Some(Json(found)) = self.store.get(&BACKUP_KEYS, &key)? {
                    rows.push((key, found));
                }
            }
            BackupSelection::Room(room) => {
                if is_storable(room) {
                    for row in self.store.scan(&BACKUP_KEYS, &(user, version, room.to_owned()), Direction::Forward) {
                        let (key, Json(found)) = row?;
                        rows.push((key, found));
                    }
                }
            }
            BackupSelection::All => {
                for row in self.store.scan(&BACKUP_KEYS, &(user, version), Direction::Forward) {
                    let (key, Json(found)) = row?;
                    rows.push((key, found));
                }
            }
        }
        Ok(rows)
    }
}

/// What makes one copy of a room key better than another, read from its metadata.
struct Rank {
    is_verified: bool,
    first_message_index: u64,
    forwarded_count: u64,
}

impl Rank {
    /// `None`: the metadata is malformed.
    fn of(key: &JsonObject) -> Option<Self> {
        if !key.get("session_data").is_some_and(Value::is_object) {
            return None;
        }
        Some(Self {
            is_verified: key.get("is_verified")?.as_bool()?,
            first_message_index: key.get("first_message_index")?.as_u64()?,
            forwarded_count: key.get("forwarded_count")?.as_u64()?,
        })
    }
}

/// Whether an uploaded key replaces the stored one: verified before unverified, then the one that decrypts from further back,
/// then the one that came by fewer hands.
fn is_better(uploaded: &JsonObject, stored: &JsonObject) -> bool {
    let (Some(uploaded), Some(stored)) = (Rank::of(uploaded), Rank::of(stored)) else { return true };
    let rank = |rank: &Rank| (!rank.is_verified, rank.first_message_index, rank.forwarded_count);
    rank(&uploaded) < rank(&stored)
}

fn describe(version: u64, record: BackupVersionRecord) -> BackupVersion {
    // Written from an object, so it reads as one.
    let auth_data = serde_json::from_str(&record.auth_data).unwrap_or_default();
    let BackupState { count, etag } = state(&record);
    BackupVersion { version: version.to_string(), algorithm: record.algorithm, auth_data, count, etag }
}

fn state(record: &BackupVersionRecord) -> BackupState {
    BackupState { count: record.count, etag: record.etag.to_string() }
}

#[cfg(test)]
#[path = "key_backup_tests.rs"]
mod tests;
