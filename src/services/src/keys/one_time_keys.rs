//! One-time keys and fallback keys: counted, and claimed in the order of their upload.
//!
//! Spec: Client-Server API, One-time and fallback keys.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use chappe_store::{
    Batch, Direction, Domain, Position, Store, StoreError, Topic,
    tables::{
        deliveries::KeyClaim,
        e2ee::{
            CLAIMED_ONE_TIME_KEYS, DEVICE_KEYS, FALLBACK_KEYS, FallbackKeyRecord, ONE_TIME_KEY_COUNTS,
            ONE_TIME_KEY_PLACES, ONE_TIME_KEYS, OneTimeKeyRecord, REMOTE_DEVICES,
        },
    },
};
use futures_util::future::join_all;
use ruma::{
    DeviceId, OneTimeKeyAlgorithm, OwnedDeviceId, OwnedOneTimeKeyId, OwnedUserId, UInt, UserId,
    api::{client::keys::claim_keys::v3, federation::keys::claim_keys::v1},
    encryption::OneTimeKey,
    serde::Raw,
};
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use crate::{deliveries, guarded::commit_guarded};

use super::{
    Keys, KeysError, REMOTE_TIMEOUT_DEFAULT, REMOTE_TIMEOUT_MAX, UploadError, by_server, failure_json, is_storable,
};

/// How many one-time keys of one algorithm a device may keep here. Clients keep about 50.
const ONE_TIME_KEYS_MAX: u64 = 10_000;

/// How many claimed keys of a device are remembered. A client may upload a key again whose upload it thinks failed: one of the last hundred
/// or so.
const CLAIMED_KEPT: usize = 1_000;

/// Device -> algorithm: which keys of a user are wanted.
type Claims = BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>;

/// The unclaimed one-time keys of a device, by algorithm. `signed_curve25519` is always listed, so that clients hear of zero.
pub fn one_time_key_counts(
    store: &Store,
    user: &UserId,
    device: &DeviceId,
) -> Result<BTreeMap<OneTimeKeyAlgorithm, UInt>, StoreError> {
    Ok(show_counts(get_counts(store, user, device)?))
}

fn show_counts(counts: BTreeMap<String, u64>) -> BTreeMap<OneTimeKeyAlgorithm, UInt> {
    let mut shown = BTreeMap::from([(OneTimeKeyAlgorithm::SignedCurve25519, UInt::MIN)]);
    shown.extend(counts.into_iter().map(|(algorithm, count)| (algorithm.into(), UInt::new_saturating(count))));
    shown
}

fn get_counts(store: &Store, user: &UserId, device: &DeviceId) -> Result<BTreeMap<String, u64>, StoreError> {
    let of_device = (user.to_owned(), device.to_owned());
    let rows = store.scan(&ONE_TIME_KEY_COUNTS, &of_device, Direction::Forward);
    let mut counts: BTreeMap<String, u64> =
        rows.map(|row| row.map(|((_, _, algorithm), count)| (algorithm, count))).collect::<Result<_, _>>()?;
    if counts.is_empty() {
        // No key was ever uploaded, or the last one was by a version of this server that kept no counts.
        for row in store.scan(&ONE_TIME_KEY_PLACES, &of_device, Direction::Forward) {
            let ((_, _, algorithm, _), _) = row?;
            *counts.entry(algorithm).or_default() += 1;
        }
    }
    Ok(counts)
}

fn queue_counts(batch: &mut Batch, user: &UserId, device: &DeviceId, counts: &BTreeMap<String, u64>) {
    for (algorithm, count) in counts {
        batch.put(&ONE_TIME_KEY_COUNTS, &(user.to_owned(), device.to_owned(), algorithm.clone()), count);
    }
}

/// The algorithms for which a device has a fallback key that was not given out yet.
pub fn unused_fallback_key_types(
    store: &Store,
    user: &UserId,
    device: &DeviceId,
) -> Result<Vec<OneTimeKeyAlgorithm>, StoreError> {
    let mut algorithms = Vec::new();
    for row in store.scan(&FALLBACK_KEYS, &(user.to_owned(), device.to_owned()), Direction::Forward) {
        let ((_, _, algorithm), key) = row?;
        if !key.used {
            algorithms.push(algorithm.into());
        }
    }
    Ok(algorithms)
}

/// Puts newly uploaded one-time keys behind those that wait.
///
/// A key that is already there with the same content is left as it is; with other content the upload is refused. A key that was claimed
/// before is passed over: its upload was not answered, and came again. Answers how many there are then.
pub(super) fn queue_one_time_keys(
    store: &Store,
    batch: &mut Batch,
    user: &UserId,
    device: &DeviceId,
    keys: &BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
) -> Result<BTreeMap<OneTimeKeyAlgorithm, UInt>, UploadError> {
    let mut counts = get_counts(store, user, device)?;
    if keys.is_empty() {
        return Ok(show_counts(counts));
    }
    let claimed = scan_claimed(store, user, device)?;
    let is_claimed: HashSet<_> =
        claimed.iter().map(|((_, _, algorithm, hash), _)| (algorithm.as_str(), *hash)).collect();
    for (name, key) in keys {
        let (algorithm, key_id) = check_key(name, key)?;
        let place = (user.to_owned(), device.to_owned(), algorithm.to_owned(), key_id.to_owned());
        if let Some(position) = store.get(&ONE_TIME_KEY_PLACES, &place)? {
            let existing = store.get(&ONE_TIME_KEYS, &(place.0, place.1, place.2, position))?;
            if existing.is_some_and(|existing| !is_same_json(&existing.json, key.json())) {
                return Err(UploadError::OneTimeKeyExists { key_id: name.to_string() });
            }
            continue;
        }
        if !is_claimed.is_empty() && is_claimed.contains(&(algorithm, public_key_hash(key.json().get()))) {
            continue;
        }
        let count = counts.entry(algorithm.to_owned()).or_default();
        *count += 1;
        if *count > ONE_TIME_KEYS_MAX {
            return Err(UploadError::TooManyKeys);
        }
        queue_one_time_key(batch, user, device, algorithm, key_id, key);
    }
    queue_counts(batch, user, device, &counts);
    queue_forget_claimed(batch, claimed);
    Ok(show_counts(counts))
}

/// User, device, algorithm, and the hash of the public key.
type ClaimedKey = (OwnedUserId, OwnedDeviceId, String, [u8; 16]);

/// The claimed keys of a device that are remembered, with when they were claimed.
fn scan_claimed(store: &Store, user: &UserId, device: &DeviceId) -> Result<Vec<(ClaimedKey, Position)>, StoreError> {
    store.scan(&CLAIMED_ONE_TIME_KEYS, &(user.to_owned(), device.to_owned()), Direction::Forward).collect()
}

/// Forgets the oldest of many claimed keys.
fn queue_forget_claimed(batch: &mut Batch, mut claimed: Vec<(ClaimedKey, Position)>) {
    let too_many = claimed.len().saturating_sub(CLAIMED_KEPT);
    claimed.sort_unstable_by_key(|(_, position)| *position);
    for (key, _) in claimed.iter().take(too_many) {
        batch.delete(&CLAIMED_ONE_TIME_KEYS, key);
    }
}

/// Names a key by what makes it the same key, whatever its id and signatures.
fn public_key_hash(json: &str) -> [u8; 16] {
    let public = match serde_json::from_str::<Value>(json) {
        Ok(Value::Object(mut object)) => object.remove("key"),
        Ok(other) => Some(other),
        Err(_) => None,
    };
    let text = public.as_ref().and_then(Value::as_str).unwrap_or(json);
    let mut hash = [0; 16];
    hash.iter_mut().zip(Sha256::digest(text.as_bytes())).for_each(|(to, from)| *to = from);
    hash
}

/// The one-time keys of a device that is made, or made anew, in the same batch.
pub(super) fn queue_first_one_time_keys(
    batch: &mut Batch,
    user: &UserId,
    device: &DeviceId,
    keys: &BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
) -> Result<(), UploadError> {
    if u64::try_from(keys.len()).is_ok_and(|count| count > ONE_TIME_KEYS_MAX) {
        return Err(UploadError::TooManyKeys);
    }
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (name, key) in keys {
        let (algorithm, key_id) = check_key(name, key)?;
        *counts.entry(algorithm.to_owned()).or_default() += 1;
        queue_one_time_key(batch, user, device, algorithm, key_id, key);
    }
    queue_counts(batch, user, device, &counts);
    Ok(())
}

fn queue_one_time_key(
    batch: &mut Batch,
    user: &UserId,
    device: &DeviceId,
    algorithm: &str,
    key_id: &str,
    key: &Raw<OneTimeKey>,
) {
    let place = (user.to_owned(), device.to_owned(), algorithm.to_owned(), key_id.to_owned());
    let position = batch.next_position();
    batch.put(&ONE_TIME_KEY_PLACES, &place, &position);
    let record = OneTimeKeyRecord { key_id: place.3, json: key.json().get().to_owned() };
    batch.put(&ONE_TIME_KEYS, &(place.0, place.1, place.2, position), &record);
}

/// Puts newly uploaded fallback keys in the place of the old ones. The same key again stays as used as it was.
pub(super) fn queue_fallback_keys(
    store: &Store,
    batch: &mut Batch,
    user: &UserId,
    device: &DeviceId,
    keys: &BTreeMap<OwnedOneTimeKeyId, Raw<OneTimeKey>>,
) -> Result<(), UploadError> {
    for (name, key) in keys {
        let (algorithm, key_id) = check_key(name, key)?;
        let row = (user.to_owned(), device.to_owned(), algorithm.to_owned());
        let existing = store.get(&FALLBACK_KEYS, &row)?;
        if existing.is_some_and(|existing| existing.key_id == key_id && is_same_json(&existing.json, key.json())) {
            continue;
        }
        let record = FallbackKeyRecord { key_id: key_id.to_owned(), json: key.json().get().to_owned(), used: false };
        batch.put(&FALLBACK_KEYS, &row, &record);
    }
    Ok(())
}

fn check_key<'a>(name: &'a OwnedOneTimeKeyId, key: &Raw<OneTimeKey>) -> Result<(&'a str, &'a str), UploadError> {
    let invalid = || UploadError::BadKey { key_id: name.to_string() };
    let (algorithm, key_id) = name.as_str().split_once(':').ok_or_else(invalid)?;
    if !is_storable(algorithm) || !is_storable(key_id) {
        return Err(invalid());
    }
    match serde_json::from_str(key.json().get()) {
        Ok(Value::String(_)) => Ok((algorithm, key_id)),
        Ok(Value::Object(object)) if object.get("key").is_some_and(Value::is_string) => Ok((algorithm, key_id)),
        _ => Err(invalid()),
    }
}

fn is_same_json(stored: &str, uploaded: &RawValue) -> bool {
    match (serde_json::from_str::<Value>(stored), serde_json::from_str::<Value>(uploaded.get())) {
        (Ok(stored), Ok(uploaded)) => stored == uploaded,
        _ => false,
    }
}

impl Keys {
    /// Claims a one-time key, or else the fallback key, of each device asked for. Each one-time key is given out once, ever:
    /// the answer waits until the claim is durable.
    ///
    /// Spec: Client-Server API, `POST /keys/claim`.
    pub async fn claim(
        &self,
        claimant: &UserId,
        wanted: BTreeMap<OwnedUserId, Claims>,
        timeout: Option<Duration>,
    ) -> Result<v3::Response, KeysError> {
        let timeout = timeout.unwrap_or(REMOTE_TIMEOUT_DEFAULT).min(REMOTE_TIMEOUT_MAX);
        let (local, remote): (BTreeMap<_, _>, BTreeMap<_, _>) =
            wanted.into_iter().partition(|(user, _)| self.is_local(user));

        let mut answer = v3::Response::new(self.claim_local(claimant.as_str(), local).await?);
        let fetches = by_server(remote).into_iter().map(|(server, users)| async move {
            let request = v1::Request::new(users.clone());
            let fetched = self.federation.fetch_claimed_keys(&server, request, timeout).await;
            (server, users, fetched)
        });
        for (server, users, fetched) in join_all(fetches).await {
            match fetched {
                Ok(response) => {
                    self.note_remote_claims(claimant, &users, &response.one_time_keys).await?;
                    answer.one_time_keys.extend(response.one_time_keys.into_iter().filter_map(|(user, devices)| {
                        let asked = users.get(&user)?;
                        let devices: BTreeMap<_, _> =
                            devices.into_iter().filter(|(device, _)| asked.contains_key(device)).collect();
                        Some((user, devices))
                    }));
                }
                Err(error) => {
                    tracing::info!(destination = %server, error = %error, "one-time keys could not be claimed");
                    self.note_remote_claims(claimant, &users, &v1::OneTimeKeys::new()).await?;
                    answer.failures.insert(server.to_string(), failure_json(&error));
                }
            }
        }
        Ok(answer)
    }

    /// Notes what was claimed of devices at another server, as far as they are known here.
    async fn note_remote_claims(
        &self,
        claimant: &UserId,
        wanted: &BTreeMap<OwnedUserId, Claims>,
        given: &v1::OneTimeKeys,
    ) -> Result<(), KeysError> {
        let Some(clock) = &self.clock else { return Ok(()) };
        let mut batch = Batch::new();
        for (user, device) in wanted.iter().flat_map(|(user, devices)| devices.keys().map(move |device| (user, device)))
        {
            if !is_storable(device.as_str())
                || !self.store.contains(&REMOTE_DEVICES, &(user.clone(), device.clone()))?
            {
                continue;
            }
            let keys = given.get(user).and_then(|devices| devices.get(device));
            let key_id = keys.and_then(|keys| keys.keys().next()).map(ToString::to_string);
            let claim = KeyClaim { at_ms: clock.now_ms(), by: claimant.to_string(), key_id };
            deliveries::queue_claim(&self.store, &mut batch, (user, device), claim)?;
        }
        if !batch.is_empty() {
            self.store.commit(batch).await?;
        }
        Ok(())
    }

    /// Claims keys of local users: what [`Keys::claim`] does for them, and what other servers ask for. The claimant is a local user or
    /// another server.
    ///
    /// Spec: Server-Server API, `POST /user/keys/claim`.
    pub async fn claim_local(
        &self,
        claimant: &str,
        wanted: BTreeMap<OwnedUserId, Claims>,
    ) -> Result<v1::OneTimeKeys, KeysError> {
        let mut claimed = v1::OneTimeKeys::new();
        for (user, devices) in wanted {
            if !self.is_local(&user) {
                continue;
            }
            let keys = commit_guarded(&self.store, Domain::Account(user.clone()), |batch| {
                let mut keys = BTreeMap::new();
                for (device, algorithm) in &devices {
                    let given = self.queue_claim(batch, &user, device, algorithm.as_str())?;
                    self.note_claim(batch, claimant, (&user, device), given.as_ref().map(|(name, _)| name))?;
                    keys.extend(given.map(|(name, key)| (device.clone(), BTreeMap::from([(name, key)]))));
                }
                if !batch.is_empty() {
                    // The device learns from sync how many keys are left.
                    batch.wake(Topic::User(user.clone()));
                }
                Ok::<_, KeysError>(keys)
            })
            .await?;
            if !keys.is_empty() {
                claimed.insert(user, keys);
            }
        }
        Ok(claimed)
    }

    fn note_claim(
        &self,
        batch: &mut Batch,
        claimant: &str,
        of: (&UserId, &DeviceId),
        given: Option<&OwnedOneTimeKeyId>,
    ) -> Result<(), StoreError> {
        let Some(clock) = &self.clock else { return Ok(()) };
        // Of devices that are not there nothing is kept.
        if !is_storable(of.1.as_str()) || !self.store.contains(&DEVICE_KEYS, &(of.0.to_owned(), of.1.to_owned()))? {
            return Ok(());
        }
        let claim = KeyClaim { at_ms: clock.now_ms(), by: claimant.to_owned(), key_id: given.map(ToString::to_string) };
        deliveries::queue_claim(&self.store, batch, of, claim)
    }

    fn queue_claim(
        &self,
        batch: &mut Batch,
        user: &UserId,
        device: &DeviceId,
        algorithm: &str,
    ) -> Result<Option<(OwnedOneTimeKeyId, Raw<OneTimeKey>)>, KeysError> {
        if !is_storable(device.as_str()) || !is_storable(algorithm) {
            return Ok(None);
        }
        let row = (user.to_owned(), device.to_owned(), algorithm.to_owned());
        let first = self.store.scan(&ONE_TIME_KEYS, &row, Direction::Forward).next().transpose()?;
        if let Some((key, record)) = first {
            batch.delete(&ONE_TIME_KEYS, &key);
            let claimed = (row.0.clone(), row.1.clone(), row.2.clone(), public_key_hash(&record.json));
            let position = batch.next_position();
            batch.put(&CLAIMED_ONE_TIME_KEYS, &claimed, &position);
            let mut counts = get_counts(&self.store, user, device)?;
            counts.entry(row.2.clone()).and_modify(|count| *count = count.saturating_sub(1));
            queue_counts(batch, user, device, &counts);
            batch.delete(&ONE_TIME_KEY_PLACES, &(row.0, row.1, row.2, record.key_id.clone()));
            return Ok(named_key(algorithm, &record.key_id, record.json));
        }
        let Some(mut fallback) = self.store.get(&FALLBACK_KEYS, &row)? else { return Ok(None) };
        if !fallback.used {
            fallback.used = true;
            batch.put(&FALLBACK_KEYS, &row, &fallback);
        }
        Ok(named_key(algorithm, &fallback.key_id, fallback.json))
    }
}

fn named_key(algorithm: &str, key_id: &str, json: String) -> Option<(OwnedOneTimeKeyId, Raw<OneTimeKey>)> {
    let name = OwnedOneTimeKeyId::try_from(format!("{algorithm}:{key_id}")).ok()?;
    Some((name, Raw::from_json(RawValue::from_string(json).ok()?)))
}
