//! Cross-signing: the three keys of a user, and the signatures that devices and users put on each other's keys.
//!
//! Spec: Client-Server API, Cross-signing.

use std::collections::{BTreeMap, BTreeSet};

use chappe_store::{
    Batch, CommitError, Domain, StoreError, Topic,
    record::Json,
    tables::e2ee::{CROSS_SIGNING_KEYS, DEVICE_KEYS, JsonObject, KEY_SIGNATURES, SIGNATURE_LOG},
};
use ruma::{
    OwnedDeviceId, OwnedUserId, UserId, api::client::keys::upload_signatures::v3::SignedKeys,
    encryption::CrossSigningKey, serde::Raw,
};
use serde_json::{Value, json};

use crate::guarded::commit_guarded;

use super::{
    Keys, KeysError,
    device_keys::add_stored_signatures,
    device_lists::{DeviceChange, queue_device_changes, queue_list_changed},
    is_storable, queue_edu,
    sharing::servers_sharing_room,
    signature::{add_signature, check_signature, get_signature, signed_text},
};

pub(super) const MASTER: &str = "master";
pub(super) const SELF_SIGNING: &str = "self_signing";
pub(super) const USER_SIGNING: &str = "user_signing";

/// How many signatures of one user may be uploaded in one request.
const SIGNATURES_MAX: usize = 2_000;

/// The keys of one upload.
#[derive(Debug, Default)]
pub struct SigningKeys {
    pub master: Option<Raw<CrossSigningKey>>,
    pub self_signing: Option<Raw<CrossSigningKey>>,
    pub user_signing: Option<Raw<CrossSigningKey>>,
}

/// Whether the user has just proved who they are (user-interactive authentication).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reauthentication {
    Done,
    NotDone,
}

/// Why cross-signing keys were not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SigningKeysError {
    /// Keys that others rely on would be replaced: ask the user to authenticate, then try again.
    #[error("replacing cross-signing keys needs authentication")]
    ReauthenticationNeeded,
    /// `M_MISSING_PARAM`
    #[error("there is no master key to check the other keys with")]
    NoMasterKey,
    /// `M_INVALID_PARAM`
    #[error("the {usage} key is malformed or of another user")]
    BadKey { usage: &'static str },
    /// `M_INVALID_SIGNATURE`
    #[error("the {usage} key is not signed by the master key")]
    BadSignature { usage: &'static str },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Why one uploaded signature was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFailure {
    /// `M_INVALID_SIGNATURE`
    #[error("the signature is missing, or does not fit the key it should sign")]
    Invalid,
    /// `M_NOT_FOUND`
    #[error("there is no such device or cross-signing key")]
    NotFound,
}

/// User -> device or key -> what was wrong with its signature.
pub type SignatureFailures = BTreeMap<OwnedUserId, BTreeMap<String, SignatureFailure>>;

/// A signature that is to be kept.
struct CheckedSignature {
    user: OwnedUserId,
    signed: String,
    key_id: String,
    signature: String,
}

/// The name and the public key of a cross-signing key, which holds exactly one.
pub(super) fn public_key(key: &JsonObject) -> Option<(&str, &str)> {
    let keys = key.get("keys")?.as_object()?;
    let (name, public_key) = keys.iter().next().filter(|_| keys.len() == 1)?;
    let public_key = public_key.as_str()?;
    let is_named_after_itself = name.strip_prefix("ed25519:") == Some(public_key);
    (is_named_after_itself && is_storable(public_key)).then_some((name, public_key))
}

impl Keys {
    /// Takes a user's cross-signing keys. The same keys again change nothing.
    ///
    /// The first keys of a user need no authentication; replacing them does. Spec: `POST /keys/device_signing/upload`, MSC3967.
    pub async fn upload_signing_keys(
        &self,
        user: &UserId,
        keys: &SigningKeys,
        reauthentication: Reauthentication,
    ) -> Result<(), SigningKeysError> {
        let uploaded = [(MASTER, &keys.master), (SELF_SIGNING, &keys.self_signing), (USER_SIGNING, &keys.user_signing)];
        let mut checked: BTreeMap<&'static str, JsonObject> = BTreeMap::new();
        for (usage, key) in uploaded {
            if let Some(key) = key {
                checked.insert(usage, check_shape(user, usage, key)?);
            }
        }
        commit_guarded(&self.store, Domain::Account(user.to_owned()), |batch| {
            self.queue_signing_keys(batch, user, &checked, reauthentication)
        })
        .await
    }

    fn queue_signing_keys(
        &self,
        batch: &mut Batch,
        user: &UserId,
        uploaded: &BTreeMap<&'static str, JsonObject>,
        reauthentication: Reauthentication,
    ) -> Result<(), SigningKeysError> {
        let stored_master = self.get_cross_signing_key(user, MASTER)?;
        let mut changed = BTreeMap::new();
        for (usage, key) in uploaded {
            let stored = self.get_cross_signing_key(user, usage)?;
            if stored.is_none_or(|stored| signed_text(&stored) != signed_text(key)) {
                changed.insert(*usage, key);
            }
        }
        let Some(master) = uploaded.get(MASTER).or(stored_master.as_ref()) else {
            return Err(SigningKeysError::NoMasterKey);
        };
        let Some((master_id, master_key)) = public_key(master) else {
            return Err(SigningKeysError::BadKey { usage: MASTER });
        };
        for (usage, key) in uploaded.iter().filter(|(usage, _)| **usage != MASTER) {
            check_signature(key, user, master_id, master_key).map_err(|_| SigningKeysError::BadSignature { usage })?;
        }
        if changed.is_empty() {
            return Ok(());
        }
        if stored_master.is_some() && reauthentication == Reauthentication::NotDone {
            return Err(SigningKeysError::ReauthenticationNeeded);
        }

        for (usage, key) in &changed {
            // Device ids and cross-signing keys share one space of names where signatures are concerned.
            if let Some((_, public_key)) = public_key(key)
                && self.store.contains(&DEVICE_KEYS, &(user.to_owned(), OwnedDeviceId::from(public_key)))?
            {
                return Err(SigningKeysError::BadKey { usage });
            }
            batch.put(&CROSS_SIGNING_KEYS, &(user.to_owned(), (*usage).to_owned()), &Json((*key).clone()));
        }
        if changed.contains_key(USER_SIGNING) {
            queue_signatures_changed(batch, user, [user]);
        }
        if changed.contains_key(MASTER) || changed.contains_key(SELF_SIGNING) {
            queue_list_changed(&self.store, batch, user)?;
            self.queue_signing_key_update(batch, user, &changed)?;
        }
        Ok(())
    }

    /// Tells other servers the user's public cross-signing keys: always both, so that the receiver never pairs an old one with
    /// a new one.
    fn queue_signing_key_update(
        &self,
        batch: &mut Batch,
        user: &UserId,
        changed: &BTreeMap<&'static str, &JsonObject>,
    ) -> Result<(), StoreError> {
        let mut content = json!({ "user_id": user });
        if let Some(content) = content.as_object_mut() {
            for (usage, field) in [(MASTER, "master_key"), (SELF_SIGNING, "self_signing_key")] {
                let key = match changed.get(usage) {
                    Some(key) => Some((*key).clone()),
                    None => self.get_cross_signing_key(user, usage)?,
                };
                content.extend(key.map(|key| (field.to_owned(), Value::Object(key))));
            }
        }
        for server in servers_sharing_room(&self.store, user)? {
            queue_edu(batch, &server, "m.signing_key_update", content.clone());
        }
        Ok(())
    }

    pub(super) fn get_cross_signing_key(&self, user: &UserId, usage: &str) -> Result<Option<JsonObject>, StoreError> {
        Ok(self.store.get(&CROSS_SIGNING_KEYS, &(user.to_owned(), usage.to_owned()))?.map(|Json(key)| key))
    }

    /// Keeps signatures that `user` made: of the own devices by the self-signing key, of the own master key by own devices, and
    /// of other users' master keys by the user-signing key. What does not check is named in the answer, and the rest is kept.
    ///
    /// Spec: `POST /keys/signatures/upload`.
    pub async fn upload_signatures(
        &self,
        user: &UserId,
        signed: &BTreeMap<OwnedUserId, SignedKeys>,
    ) -> Result<SignatureFailures, KeysError> {
        let mut failures = SignatureFailures::new();
        let mut objects: BTreeMap<OwnedUserId, BTreeMap<String, JsonObject>> = BTreeMap::new();
        for (target, keys) in signed {
            for (signed_id, object) in keys.iter().take(SIGNATURES_MAX) {
                match serde_json::from_str(object.get()) {
                    Ok(object) if is_storable(signed_id) => {
                        objects.entry(target.clone()).or_default().insert(signed_id.to_owned(), object);
                    }
                    _ => {
                        failures
                            .entry(target.clone())
                            .or_default()
                            .insert(signed_id.to_owned(), SignatureFailure::Invalid);
                    }
                }
            }
        }

        let mut masters = BTreeMap::new();
        for target in objects.keys().filter(|target| *target != user) {
            masters.insert(target.clone(), self.get_or_fetch_master_key(user, target).await?);
        }

        let found = commit_guarded(&self.store, Domain::Account(user.to_owned()), |batch| {
            let mut failures = SignatureFailures::new();
            let mut kept = Vec::new();
            for (target, keys) in &objects {
                for (signed_id, object) in keys {
                    let checked = if target == user {
                        self.check_own_signature(user, signed_id, object)?
                    } else {
                        let master = masters.get(target).and_then(Option::as_ref);
                        self.check_other_signature(user, target, signed_id, object, master)?
                    };
                    match checked {
                        Ok(signatures) => kept.extend(signatures),
                        Err(failure) => {
                            failures.entry(target.clone()).or_default().insert(signed_id.clone(), failure);
                        }
                    }
                }
            }
            self.queue_signatures(batch, user, &kept)?;
            Ok::<_, KeysError>(failures)
        })
        .await?;
        for (target, found) in found {
            failures.entry(target).or_default().extend(found);
        }
        Ok(failures)
    }

    fn check_own_signature(
        &self,
        user: &UserId,
        signed_id: &str,
        object: &JsonObject,
    ) -> Result<Result<Vec<CheckedSignature>, SignatureFailure>, StoreError> {
        let master = self.get_cross_signing_key(user, MASTER)?;
        if let Some(master) = &master
            && public_key(master).is_some_and(|(_, public_key)| public_key == signed_id)
        {
            return self.check_master_key_signatures(user, signed_id, object, master);
        }
        let Some(stored) = self.get_device_keys(user, signed_id)? else { return Ok(Err(SignatureFailure::NotFound)) };
        let self_signing = self.get_cross_signing_key(user, SELF_SIGNING)?;
        let Some((key_id, public_key)) = self_signing.as_ref().and_then(public_key) else {
            return Ok(Err(SignatureFailure::NotFound));
        };
        if signed_text(&stored) != signed_text(object) || check_signature(object, user, key_id, public_key).is_err() {
            return Ok(Err(SignatureFailure::Invalid));
        }
        Ok(Ok(checked(object, user, user, signed_id, key_id).into_iter().collect()))
    }

    fn check_master_key_signatures(
        &self,
        user: &UserId,
        signed_id: &str,
        object: &JsonObject,
        master: &JsonObject,
    ) -> Result<Result<Vec<CheckedSignature>, SignatureFailure>, StoreError> {
        let names: Vec<&String> = object
            .get("signatures")
            .and_then(|signatures| signatures.get(user.as_str()))
            .and_then(Value::as_object)
            .map(|signatures| signatures.keys().collect())
            .unwrap_or_default();
        if names.is_empty() || signed_text(master) != signed_text(object) {
            return Ok(Err(SignatureFailure::Invalid));
        }
        let mut kept = Vec::new();
        for key_id in names {
            let Some((_, device)) = key_id.split_once(':') else { return Ok(Err(SignatureFailure::Invalid)) };
            let device_keys = self.get_device_keys(user, device)?;
            let device_key = device_keys.as_ref().and_then(|keys| keys.get("keys")?.get(key_id)?.as_str());
            let Some(device_key) = device_key else { return Ok(Err(SignatureFailure::Invalid)) };
            if !is_storable(key_id) || check_signature(object, user, key_id, device_key).is_err() {
                return Ok(Err(SignatureFailure::Invalid));
            }
            kept.extend(checked(object, user, user, signed_id, key_id));
        }
        Ok(Ok(kept))
    }

    fn check_other_signature(
        &self,
        user: &UserId,
        target: &UserId,
        signed_id: &str,
        object: &JsonObject,
        master: Option<&JsonObject>,
    ) -> Result<Result<Vec<CheckedSignature>, SignatureFailure>, StoreError> {
        let user_signing = self.get_cross_signing_key(user, USER_SIGNING)?;
        let (Some((key_id, key)), Some(master)) = (user_signing.as_ref().and_then(public_key), master) else {
            return Ok(Err(SignatureFailure::NotFound));
        };
        if public_key(master).is_none_or(|(_, public_key)| public_key != signed_id) {
            return Ok(Err(SignatureFailure::NotFound));
        }
        if signed_text(master) != signed_text(object) || check_signature(object, user, key_id, key).is_err() {
            return Ok(Err(SignatureFailure::Invalid));
        }
        Ok(Ok(checked(object, user, target, signed_id, key_id).into_iter().collect()))
    }

    fn queue_signatures(
        &self,
        batch: &mut Batch,
        user: &UserId,
        signatures: &[CheckedSignature],
    ) -> Result<(), StoreError> {
        let mut devices: BTreeMap<OwnedDeviceId, JsonObject> = BTreeMap::new();
        let mut others: BTreeSet<&UserId> = BTreeSet::new();
        let mut master_signed = false;
        for CheckedSignature { user: target, signed, key_id, signature } in signatures {
            let row = (target.clone(), signed.clone(), user.to_owned(), key_id.clone());
            if self.store.get(&KEY_SIGNATURES, &row)?.is_some_and(|stored| stored == *signature) {
                continue;
            }
            batch.put(&KEY_SIGNATURES, &row, signature);
            if target != user {
                others.insert(target);
            } else if let Some(mut keys) = self.get_device_keys(user, signed)? {
                add_stored_signatures(&self.store, &mut keys, user, signed, None)?;
                add_signature(&mut keys, user, key_id, signature);
                devices.insert(signed.as_str().into(), keys);
            } else {
                master_signed = true;
            }
        }
        if !others.is_empty() {
            queue_signatures_changed(batch, user, others);
        }
        if !devices.is_empty() {
            let mut changes = Vec::new();
            for (device, keys) in &devices {
                let display_name = self.get_told_name(user, device)?;
                changes.push(DeviceChange { device, keys: Some(keys.clone()), display_name, deleted: false });
            }
            queue_device_changes(&self.store, batch, user, changes)?;
        } else if master_signed {
            queue_list_changed(&self.store, batch, user)?;
        }
        if master_signed && let Some(mut master) = self.get_cross_signing_key(user, MASTER)? {
            for signature in signatures.iter().filter(|signature| signature.user == user) {
                if public_key(&master).is_some_and(|(_, public_key)| public_key == signature.signed) {
                    add_signature(&mut master, user, &signature.key_id, &signature.signature);
                }
            }
            self.queue_signing_key_update(batch, user, &BTreeMap::from([(MASTER, &master)]))?;
        }
        Ok(())
    }

    pub(super) fn get_device_keys(&self, user: &UserId, device: &str) -> Result<Option<JsonObject>, StoreError> {
        if !is_storable(device) {
            return Ok(None);
        }
        Ok(self.store.get(&DEVICE_KEYS, &(user.to_owned(), device.into()))?.map(|Json(keys)| keys))
    }

    async fn get_or_fetch_master_key(&self, viewer: &UserId, target: &UserId) -> Result<Option<JsonObject>, KeysError> {
        if let Some(key) = self.get_cross_signing_key(target, MASTER)? {
            return Ok(Some(key));
        }
        if self.is_local(target) {
            return Ok(None);
        }
        let mut answer = self.query(viewer, BTreeMap::from([(target.to_owned(), Vec::new())]), None).await?;
        Ok(answer.master_keys.remove(target).and_then(|key| super::device_keys::cross_signing_key_of(&key, target)))
    }
}

/// Notes, for `user` alone, that the keys of `others` carry other signatures now.
fn queue_signatures_changed<'a>(batch: &mut Batch, user: &UserId, others: impl IntoIterator<Item = &'a UserId>) {
    for other in others {
        let position = batch.next_position();
        batch.put(&SIGNATURE_LOG, &(user.to_owned(), position), &other.to_owned());
    }
    batch.wake(Topic::User(user.to_owned()));
}

fn checked(
    object: &JsonObject,
    signer: &UserId,
    user: &UserId,
    signed: &str,
    key_id: &str,
) -> Option<CheckedSignature> {
    let signature = get_signature(object, signer, key_id)?.to_owned();
    Some(CheckedSignature { user: user.to_owned(), signed: signed.to_owned(), key_id: key_id.to_owned(), signature })
}

fn check_shape(user: &UserId, usage: &'static str, key: &Raw<CrossSigningKey>) -> Result<JsonObject, SigningKeysError> {
    let bad_key = || SigningKeysError::BadKey { usage };
    let key: JsonObject = serde_json::from_str(key.json().get()).map_err(|_| bad_key())?;
    let is_for_usage = key
        .get("usage")
        .and_then(Value::as_array)
        .is_some_and(|usages| usages.iter().any(|value| value.as_str() == Some(usage)));
    let is_of_user = key.get("user_id").and_then(Value::as_str) == Some(user.as_str());
    if !is_for_usage || !is_of_user || public_key(&key).is_none() {
        return Err(bad_key());
    }
    Ok(key)
}
