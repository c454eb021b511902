//! Pushers: where users want to be told of events when their clients do not ask.
//!
//! A pusher goes with the device that set it ([`queue_pushers_deleted`]). Sending to them is [`super::delivery`]'s work.
//!
//! Spec: Client-Server API, Push Notifications; Push Gateway API.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, CommitError, Direction, Domain, Store, StoreError,
    tables::{
        emails::USER_EMAILS,
        push::{PUSH_QUEUE, PUSHER_STATES, PUSHERS, PUSHKEYS, PusherRecord, PusherState},
    },
};
use parking_lot::RwLock;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::{Map, Value, json};
use url::Url;

use crate::{emails::canonical_address, guarded::commit_guarded};

/// The app id of every pusher that writes emails.
pub const EMAIL_APP_ID: &str = "m.email";

/// The path that the URL of every push gateway has.
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";

const APP_ID_CHARS_MAX: usize = 64;
const PUSHKEY_BYTES_MAX: usize = 512;
/// Longest name, tag or language, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;
/// Largest `data`, in bytes of JSON.
const DATA_BYTES_MAX: usize = 16 << 10;
const PUSHERS_PER_USER_MAX: usize = 100;

/// Which pusher: whose, and where it reaches.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PusherKey {
    pub user_id: OwnedUserId,
    pub app_id: String,
    pub pushkey: String,
}

impl PusherKey {
    pub(super) fn row(&self) -> (OwnedUserId, String, String) {
        (self.user_id.clone(), self.app_id.clone(), self.pushkey.clone())
    }
}

/// What a client wants of a pusher.
#[derive(Clone, Debug)]
pub struct NewPusher {
    pub kind: String,
    pub app_display_name: String,
    pub device_display_name: String,
    pub profile_tag: Option<String>,
    pub lang: String,
    pub data: Map<String, Value>,
    /// Whether the same pushkey may go on serving other users.
    pub append: bool,
}

/// A pusher that was not set.
#[derive(Debug, thiserror::Error)]
pub enum SetPusherError {
    #[error("{0}")]
    Invalid(&'static str),
    #[error("the data of an HTTP pusher needs a url")]
    MissingUrl,
    #[error("the account does not have this email address")]
    NotOwnAddress,
    #[error("there are too many pushers")]
    TooMany,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// The pushers of this server's users.
pub struct Pushers {
    pub(super) store: Store,
    clock: Arc<dyn Clock>,
    /// Who has a pusher, or had one a while ago.
    owners: RwLock<HashSet<OwnedUserId>>,
    /// Counts additions to `owners`.
    generation: AtomicU64,
}

impl Pushers {
    /// Reads who has a pusher.
    pub fn load(store: Store, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let owners = store.scan(&PUSHERS, &(), Direction::Forward).map(|row| row.map(|((user, _, _), _)| user));
        let owners = RwLock::new(owners.collect::<Result<_, _>>()?);
        Ok(Self { store, clock, owners, generation: AtomicU64::new(0) })
    }

    /// A user's pushers.
    pub fn scan_pushers(&self, user_id: &UserId) -> Result<Vec<(PusherKey, PusherRecord)>, StoreError> {
        let rows = self.store.scan(&PUSHERS, &(user_id.to_owned(),), Direction::Forward);
        rows.map(|row| row.map(|((user_id, app_id, pushkey), record)| (PusherKey { user_id, app_id, pushkey }, record)))
            .collect()
    }

    pub fn get_pusher(&self, key: &PusherKey) -> Result<Option<PusherRecord>, StoreError> {
        self.store.get(&PUSHERS, &key.row())
    }

    /// The pushers that something waits for.
    pub(super) fn scan_waiting(&self) -> Result<Vec<PusherKey>, StoreError> {
        let mut waiting: Vec<PusherKey> = Vec::new();
        for row in self.store.scan(&PUSH_QUEUE, &(), Direction::Forward) {
            let ((user_id, app_id, pushkey, _), _) = row?;
            let key = PusherKey { user_id, app_id, pushkey };
            if waiting.last() != Some(&key) {
                waiting.push(key);
            }
        }
        Ok(waiting)
    }

    /// Adds a pusher for a device, or changes it. Unless it is appended, other users lose theirs with the same app and pushkey.
    pub async fn set(&self, key: PusherKey, device_id: &DeviceId, new: NewPusher) -> Result<(), SetPusherError> {
        check(&key, &new)?;
        let record = PusherRecord {
            kind: new.kind,
            app_display_name: new.app_display_name,
            device_display_name: new.device_display_name,
            profile_tag: new.profile_tag,
            lang: new.lang,
            data: Value::Object(new.data).to_string(),
            device_id: device_id.to_string(),
            set_at_ms: self.clock.now_ms(),
        };
        let pushkey_domain = Domain::Named { kind: "pushkey", id: format!("{} {}", key.app_id, key.pushkey) };
        commit_guarded(&self.store, Domain::Account(key.user_id.clone()), |batch| {
            batch.guard(pushkey_domain.clone(), self.store.domain_version(&pushkey_domain)?);
            if record.kind == "email" && !self.is_own_address(&key)? {
                return Err(SetPusherError::NotOwnAddress);
            }
            let is_new = self.store.get(&PUSHERS, &key.row())?.is_none();
            let own = self.store.scan(&PUSHERS, &(key.user_id.clone(),), Direction::Forward);
            if is_new && own.take(PUSHERS_PER_USER_MAX).count() >= PUSHERS_PER_USER_MAX {
                return Err(SetPusherError::TooMany);
            }
            if !new.append {
                let reached = (key.app_id.clone(), key.pushkey.clone());
                for row in self.store.scan(&PUSHKEYS, &reached, Direction::Forward) {
                    let ((app_id, pushkey, user_id), ()) = row?;
                    if user_id != key.user_id {
                        queue_pusher_deleted(batch, &PusherKey { user_id, app_id, pushkey });
                    }
                }
            }
            batch.put(&PUSHERS, &key.row(), &record);
            batch.put(&PUSHKEYS, &(key.app_id.clone(), key.pushkey.clone(), key.user_id.clone()), &());
            // Whatever was wrong with it may be better now.
            if let Some(state) = self.store.get(&PUSHER_STATES, &key.row())? {
                let fresh = PusherState { badge: state.badge, ..PusherState::default() };
                batch.put(&PUSHER_STATES, &key.row(), &fresh);
            }
            Ok(())
        })
        .await?;
        if self.owners.write().insert(key.user_id) {
            self.generation.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// Whether the pushkey is an email address of the user's account.
    fn is_own_address(&self, key: &PusherKey) -> Result<bool, StoreError> {
        let Some(address) = canonical_address(&key.pushkey) else { return Ok(false) };
        self.store.contains(&USER_EMAILS, &(key.user_id.clone(), address))
    }

    /// Deletes a pusher, with what waits for it. One that is not there is passed over.
    pub async fn delete(&self, key: &PusherKey) -> Result<(), SetPusherError> {
        commit_guarded(&self.store, Domain::Account(key.user_id.clone()), |batch| {
            if self.store.contains(&PUSHERS, &key.row())? {
                queue_pusher_deleted(batch, key);
            }
            Ok(())
        })
        .await
    }

    /// Whether a user may have a pusher.
    pub fn is_owner(&self, user_id: &UserId) -> bool {
        self.owners.read().contains(user_id)
    }

    /// Everybody who may have a pusher, and the generation of that answer.
    pub fn get_owners(&self) -> (u64, Vec<OwnedUserId>) {
        let generation = self.get_generation();
        (generation, self.owners.read().iter().cloned().collect())
    }

    /// Changes when somebody becomes an owner.
    pub fn get_generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// A pusher as its user sees it.
pub fn shown(key: &PusherKey, record: &PusherRecord) -> Value {
    let mut shown = json!({
        "app_display_name": record.app_display_name,
        "app_id": key.app_id,
        "data": serde_json::from_str::<Value>(&record.data).unwrap_or_else(|_| json!({})),
        "device_display_name": record.device_display_name,
        "kind": record.kind,
        "lang": record.lang,
        "pushkey": key.pushkey,
    });
    if let (Some(tag), Some(shown)) = (&record.profile_tag, shown.as_object_mut()) {
        shown.insert("profile_tag".to_owned(), tag.as_str().into());
    }
    shown
}

/// Puts the end of the pushers that devices set into a batch that the user's account guards.
pub(crate) fn queue_pushers_deleted(
    store: &Store,
    batch: &mut Batch,
    user_id: &UserId,
    device_ids: &[OwnedDeviceId],
) -> Result<(), StoreError> {
    for row in store.scan(&PUSHERS, &(user_id.to_owned(),), Direction::Forward) {
        let ((user_id, app_id, pushkey), record) = row?;
        if device_ids.iter().any(|device_id| device_id.as_str() == record.device_id) {
            queue_pusher_deleted(batch, &PusherKey { user_id, app_id, pushkey });
        }
    }
    Ok(())
}

/// Puts the end of the pushers that write to an email address, or of all that write emails, into a batch that the user's account guards.
pub(crate) fn queue_email_pushers_deleted(
    store: &Store,
    batch: &mut Batch,
    user_id: &UserId,
    address: Option<&str>,
) -> Result<(), StoreError> {
    for row in store.scan(&PUSHERS, &(user_id.to_owned(),), Direction::Forward) {
        let ((user_id, app_id, pushkey), record) = row?;
        let is_meant = address.is_none_or(|address| canonical_address(&pushkey).as_deref() == Some(address));
        if record.kind == "email" && is_meant {
            queue_pusher_deleted(batch, &PusherKey { user_id, app_id, pushkey });
        }
    }
    Ok(())
}

fn queue_pusher_deleted(batch: &mut Batch, key: &PusherKey) {
    batch.delete(&PUSHERS, &key.row());
    batch.delete(&PUSHKEYS, &(key.app_id.clone(), key.pushkey.clone(), key.user_id.clone()));
    batch.delete(&PUSHER_STATES, &key.row());
    batch.delete_prefix(&PUSH_QUEUE, &key.row());
}

fn check(key: &PusherKey, new: &NewPusher) -> Result<(), SetPusherError> {
    let invalid = |message| Err(SetPusherError::Invalid(message));
    let is_plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    if !is_plain(&key.app_id) || key.app_id.chars().count() > APP_ID_CHARS_MAX {
        return invalid("app_id must be of 1 to 64 characters, none of them control characters");
    }
    if !is_plain(&key.pushkey) || key.pushkey.len() > PUSHKEY_BYTES_MAX {
        return invalid("pushkey must be of 1 to 512 bytes, none of them control characters");
    }
    let texts = [&new.app_display_name, &new.device_display_name, &new.lang];
    if texts.into_iter().chain(&new.profile_tag).any(|text| text.len() > TEXT_BYTES_MAX) {
        return invalid("app_display_name, device_display_name, profile_tag or lang is too long");
    }
    if Value::Object(new.data.clone()).to_string().len() > DATA_BYTES_MAX {
        return invalid("data is too large");
    }
    match new.kind.as_str() {
        "http" => {
            let url = new.data.get("url").ok_or(SetPusherError::MissingUrl)?;
            if url.as_str().and_then(gateway_url).is_none() {
                return invalid("url must be an HTTPS URL with the path /_matrix/push/v1/notify");
            }
        }
        "email" if key.app_id != EMAIL_APP_ID => return invalid("The app_id of email pushers is m.email"),
        "email" if canonical_address(&key.pushkey).is_none() => {
            return invalid("The pushkey of email pushers is an email address");
        }
        "email" => {}
        _ => return invalid("kind must be http, email or null"),
    }
    Ok(())
}

/// The URL of a push gateway, if it is one.
pub(super) fn gateway_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| url.scheme() == "https" && url.path() == GATEWAY_PATH && url.has_host())
}
