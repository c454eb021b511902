//! Signing keys: publishing our own, and finding out those of others.
//!
//! A key is fetched from its server, and where that fails from the notaries the operator trusts. Only one fetch per server runs at
//! a time, and a server that does not give what is wanted is not asked again at once. Every key ever seen is kept, because old
//! events need it. Verifying events is not done here, but in `chappe_protocol::sign`.

mod document;
mod notary;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chappe_protocol::{
    clock::Clock,
    sign::{MAX_KEY_VALIDITY_MS, PublicKeys, ServerSigner, SignError, key_valid_for_event, required_signers},
};
use chappe_store::{
    Batch, Store, StoreError,
    tables::server_keys::{SERVER_KEY_DOCUMENTS, SERVER_KEYS, ServerKeyRecord},
};
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId,
    room_version_rules::RoomVersionRules, serde::Base64,
};
use tokio::sync::Semaphore;

pub use self::{
    document::{DocumentError, KeyDocument},
    notary::{NotaryCriteria, NotaryQuery},
};
use super::client::{FederationClient, FederationError, FederationRequest};

/// How long a published key document claims to be valid, in milliseconds.
const OWN_VALIDITY_MS: u64 = 24 * 3_600_000;
/// The first pause after a fetch that did not give what was wanted, in milliseconds; it doubles up to the last. That one is short,
/// because anyone can make us look for keys that do not exist, and the real ones must not have to wait long for it.
const PAUSE_FIRST_MS: u64 = 1_000;
const PAUSE_MAX_MS: u64 = 60_000;
/// How many servers' keys are fetched at the same time.
const FETCHES_MAX: usize = 64;
const SERVERS_REMEMBERED: usize = 20_000;
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// What the operator says about keys.
#[derive(Clone, Debug, Default)]
pub struct ServerKeysConfig {
    /// Servers trusted to vouch for the keys of others, in the order in which they are asked.
    pub notaries: Vec<OwnedServerName>,
    /// Keys that are never believed, whoever vouches for them.
    pub denied_keys: Vec<(OwnedServerName, OwnedServerSigningKeyId)>,
    /// Servers of which only these keys are believed, whatever the servers themselves or notaries say.
    pub pinned_keys: BTreeMap<OwnedServerName, PinnedKeys>,
    /// Own keys of the past.
    pub retired_keys: Vec<RetiredKey>,
}

/// The ids and bytes of the keys that a server is known by.
pub type PinnedKeys = BTreeMap<OwnedServerSigningKeyId, Vec<u8>>;

/// A key this server signed with once.
#[derive(Clone, Debug)]
pub struct RetiredKey {
    pub key_id: OwnedServerSigningKeyId,
    /// Unpadded base64.
    pub public_key: String,
    /// When it was last used, in milliseconds since the epoch.
    pub expired_ms: u64,
}

/// Why a key could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchKeysError {
    #[error(transparent)]
    Federation(#[from] FederationError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no notary knows the keys of {0}")]
    NoNotary(OwnedServerName),
}

type Known = BTreeMap<OwnedServerSigningKeyId, ServerKeyRecord>;

/// What is remembered of the fetches from one server.
#[derive(Default)]
struct Fetches {
    /// How many there have been: who waited for one sees that it happened.
    count: AtomicU64,
    /// Held while one is under way.
    pause: tokio::sync::Mutex<Pause>,
}

#[derive(Default)]
struct Pause {
    length_ms: u64,
    ends_ms: u64,
}

/// The key service. Cheap to clone.
#[derive(Clone)]
pub struct ServerKeys {
    inner: Arc<Inner>,
}

struct Inner {
    signer: Arc<ServerSigner>,
    client: FederationClient,
    store: Store,
    clock: Arc<dyn Clock>,
    config: ServerKeysConfig,
    /// In place of what the configuration had at the start.
    pinned: RwLock<BTreeMap<OwnedServerName, PinnedKeys>>,
    denied: HashSet<(OwnedServerName, OwnedServerSigningKeyId)>,
    known: Mutex<LruCache<OwnedServerName, Known>>,
    fetches: Mutex<LruCache<OwnedServerName, Arc<Fetches>>>,
    slots: Semaphore,
}

impl ServerKeys {
    pub fn new(
        signer: Arc<ServerSigner>,
        client: FederationClient,
        store: Store,
        clock: Arc<dyn Clock>,
        mut config: ServerKeysConfig,
    ) -> Self {
        let size = NonZeroUsize::new(SERVERS_REMEMBERED).unwrap_or(NonZeroUsize::MIN);
        let denied = config.denied_keys.iter().cloned().collect();
        Self {
            inner: Arc::new(Inner {
                signer,
                client,
                store,
                clock,
                pinned: RwLock::new(std::mem::take(&mut config.pinned_keys)),
                config,
                denied,
                known: Mutex::new(LruCache::new(size)),
                fetches: Mutex::new(LruCache::new(size)),
                slots: Semaphore::new(FETCHES_MAX),
            }),
        }
    }

    /// Pins other keys from now on, in place of all that were.
    pub fn replace_pinned_keys(&self, pinned: BTreeMap<OwnedServerName, PinnedKeys>) {
        *self.inner.pinned.write() = pinned;
    }

    /// This server's key document, signed, as canonical JSON: the answer to `GET /_matrix/key/v2/server`.
    ///
    /// Spec: Server-Server API, Publishing Keys.
    pub fn own_document(&self) -> Result<String, SignError> {
        let valid_until_ms = self.inner.clock.now_ms() + OWN_VALIDITY_MS;
        document::write_own(&self.inner.signer, &self.inner.config.retired_keys, valid_until_ms)
    }

    /// Keys of a server, fetched where one of `key_ids` is unknown or not valid until `valid_until_ms` (milliseconds since the
    /// epoch). What cannot be had is left out; what is had may be out of date: the records say until when they are good.
    pub async fn get_keys(
        &self,
        server: &ServerName,
        key_ids: &BTreeSet<OwnedServerSigningKeyId>,
        valid_until_ms: u64,
    ) -> Result<BTreeMap<OwnedServerSigningKeyId, ServerKeyRecord>, StoreError> {
        if let Some(pinned) = self.inner.pinned.read().get(server) {
            return Ok(self.pinned_records(pinned, key_ids));
        }
        let good = |record: &ServerKeyRecord| record.retired || usable_until_ms(record) >= valid_until_ms;
        let enough = |known: &Known| key_ids.iter().all(|key_id| known.get(key_id).is_some_and(good));
        let mut known = self.get_known(server, key_ids)?;
        if !enough(&known) {
            if let Err(error) = self.fetch_once(server, key_ids, valid_until_ms).await {
                tracing::debug!(server = %server, %error, "keys could not be fetched");
            }
            known = self.get_known(server, key_ids)?;
        }
        known.retain(|key_id, _| {
            key_ids.contains(key_id) && !self.inner.denied.contains(&(server.to_owned(), key_id.clone()))
        });
        Ok(known)
    }

    /// Pinned keys are good for as long as they are pinned: nothing is fetched for them.
    fn pinned_records(&self, pinned: &PinnedKeys, key_ids: &BTreeSet<OwnedServerSigningKeyId>) -> Known {
        let fetched_ms = self.inner.clock.now_ms();
        let record =
            |key: &Vec<u8>| ServerKeyRecord { key: key.clone(), valid_until_ms: u64::MAX, retired: false, fetched_ms };
        let wanted = pinned.iter().filter(|(key_id, _)| key_ids.contains(*key_id));
        wanted.map(|(key_id, key)| (key_id.clone(), record(key))).collect()
    }

    /// The key for checking a request that `server` makes now: empty if it is unknown, retired, expired or denied.
    pub async fn get_keys_for_request(
        &self,
        server: &ServerName,
        key_id: &ServerSigningKeyId,
    ) -> Result<PublicKeys, StoreError> {
        if server == self.inner.signer.server_name() {
            return Ok(self.inner.signer.public_keys());
        }
        let now_ms = self.inner.clock.now_ms();
        let keys = self.get_keys(server, &BTreeSet::from([key_id.to_owned()]), now_ms).await?;
        let usable = keys.into_iter().filter(|(_, record)| !record.retired && usable_until_ms(record) >= now_ms);
        Ok(public_keys(server, usable))
    }

    /// The keys that must have signed this event, as far as they are known or can be had, and could be used when the event says
    /// it was sent (milliseconds since the epoch).
    pub async fn get_keys_for_event(
        &self,
        event: &CanonicalJsonObject,
        rules: &RoomVersionRules,
        sent_ms: u64,
    ) -> Result<PublicKeys, StoreError> {
        let mut found = PublicKeys::new();
        // An event without the needed signatures fails its verification; there is nothing to fetch for it.
        let Ok(signers) = required_signers(event, rules) else { return Ok(found) };
        for (server, key_ids) in signers {
            if server == self.inner.signer.server_name() {
                found.extend(self.own_keys());
                continue;
            }
            let valid_until_ms = if rules.enforce_key_validity { sent_ms } else { 0 };
            let keys = self.get_keys(&server, &key_ids, valid_until_ms).await?;
            let usable = keys
                .into_iter()
                .filter(|(_, record)| key_valid_for_event(rules, record.valid_until_ms, record.fetched_ms, sent_ms));
            found.extend(public_keys(&server, usable));
        }
        Ok(found)
    }

    /// This server's present and past keys.
    fn own_keys(&self) -> PublicKeys {
        let mut keys = self.inner.signer.public_keys();
        for retired in &self.inner.config.retired_keys {
            if let (Ok(key), Some(own)) =
                (Base64::parse(&retired.public_key), keys.get_mut(self.inner.signer.server_name().as_str()))
            {
                own.insert(retired.key_id.to_string(), key);
            }
        }
        keys
    }

    fn get_known(&self, server: &ServerName, key_ids: &BTreeSet<OwnedServerSigningKeyId>) -> Result<Known, StoreError> {
        let mut known = self.inner.known.lock().get(server).cloned().unwrap_or_default();
        let mut learnt = false;
        for key_id in key_ids {
            if !known.contains_key(key_id)
                && let Some(record) = self.inner.store.get(&SERVER_KEYS, &(server.to_owned(), key_id.to_string()))?
            {
                known.insert(key_id.clone(), record);
                learnt = true;
            }
        }
        if learnt {
            self.inner.known.lock().put(server.to_owned(), known.clone());
        }
        Ok(known)
    }

    /// Fetches a server's keys, unless somebody just did: then that fetch is waited for and its outcome taken.
    async fn fetch_once(
        &self,
        server: &ServerName,
        key_ids: &BTreeSet<OwnedServerSigningKeyId>,
        valid_until_ms: u64,
    ) -> Result<(), FetchKeysError> {
        let fetches = self.inner.fetches.lock().get_or_insert(server.to_owned(), Arc::default).clone();
        let count = fetches.count.load(Ordering::SeqCst);
        let mut pause = fetches.pause.lock().await;
        if fetches.count.load(Ordering::SeqCst) != count || self.inner.clock.now_ms() < pause.ends_ms {
            return Ok(());
        }
        let outcome = self.fetch(server, valid_until_ms).await;
        fetches.count.fetch_add(1, Ordering::SeqCst);
        let known = self.get_known(server, key_ids)?;
        let satisfied = key_ids.iter().all(|key_id| {
            known.get(key_id).is_some_and(|record| record.retired || usable_until_ms(record) >= valid_until_ms)
        });
        pause.length_ms = match outcome {
            Ok(()) if satisfied => 0,
            _ => pause.length_ms.saturating_mul(2).clamp(PAUSE_FIRST_MS, PAUSE_MAX_MS),
        };
        pause.ends_ms = self.inner.clock.now_ms() + pause.length_ms;
        outcome
    }

    /// From the server itself, else from a notary.
    async fn fetch(&self, server: &ServerName, valid_until_ms: u64) -> Result<(), FetchKeysError> {
        let _slot = self.inner.slots.acquire().await;
        let direct = match self.fetch_direct(server).await {
            Ok(document) => return Ok(self.apply_document(&document)?),
            Err(error) => error,
        };
        // What the policy forbids is not had through others either.
        if matches!(direct, FetchKeysError::Federation(FederationError::Policy(_) | FederationError::OwnServer)) {
            return Err(direct);
        }
        for notary in &self.inner.config.notaries {
            if notary == server || notary == self.inner.signer.server_name() {
                continue;
            }
            match self.fetch_from_notary(notary, server, valid_until_ms).await {
                Ok(document) => return Ok(self.apply_document(&document)?),
                Err(error) => tracing::debug!(server = %server, notary = %notary, %error, "notary did not help"),
            }
        }
        Err(direct)
    }

    async fn fetch_direct(&self, server: &ServerName) -> Result<KeyDocument, FetchKeysError> {
        let request = FederationRequest {
            timeout: FETCH_TIMEOUT,
            answer_bytes_max: DOCUMENT_BYTES_MAX,
            ..FederationRequest::get("/_matrix/key/v2/server".to_owned())
        };
        let raw: Box<serde_json::value::RawValue> = self.inner.client.request_unsigned(server, request).await?;
        Ok(KeyDocument::verify(raw.get(), server)?)
    }

    /// Keeps what a verified document says. Not waited for: it can be fetched again.
    fn apply_document(&self, document: &KeyDocument) -> Result<(), StoreError> {
        let fetched_ms = self.inner.clock.now_ms();
        let mut batch = Batch::new();
        let mut known = self.inner.known.lock().get(&document.server).cloned().unwrap_or_default();
        for (key_id, key, retired_ms) in document.keys() {
            let row = (document.server.clone(), key_id.to_string());
            let stored = match known.get(key_id) {
                Some(record) => Some(record.clone()),
                None => self.inner.store.get(&SERVER_KEYS, &row)?,
            };
            // A document may be older than what is known: validity is never shortened by it, except that a key retires.
            let valid_until_ms = match (retired_ms, &stored) {
                (Some(expired_ms), _) => expired_ms,
                (None, Some(stored)) if stored.key == key && !stored.retired => {
                    stored.valid_until_ms.max(document.valid_until_ms)
                }
                _ => document.valid_until_ms,
            };
            let record =
                ServerKeyRecord { key: key.to_vec(), valid_until_ms, retired: retired_ms.is_some(), fetched_ms };
            batch.put(&SERVER_KEYS, &row, &record);
            known.insert(key_id.clone(), record);
        }
        batch.put(&SERVER_KEY_DOCUMENTS, &document.server, &Bytes::from(document.text.clone()));
        self.inner.known.lock().put(document.server.clone(), known);
        if let Err(error) = self.inner.store.enqueue(batch) {
            tracing::warn!(server = %document.server, %error, "fetched keys were not stored");
        }
        Ok(())
    }
}

/// Until when a key may be used: never longer than a week after it was last seen.
fn usable_until_ms(record: &ServerKeyRecord) -> u64 {
    record.valid_until_ms.min(record.fetched_ms.saturating_add(MAX_KEY_VALIDITY_MS))
}

fn public_keys(
    server: &ServerName,
    keys: impl Iterator<Item = (OwnedServerSigningKeyId, ServerKeyRecord)>,
) -> PublicKeys {
    let keys: BTreeMap<_, _> = keys.map(|(key_id, record)| (key_id.to_string(), Base64::new(record.key))).collect();
    if keys.is_empty() { PublicKeys::new() } else { PublicKeys::from([(server.to_string(), keys)]) }
}

#[cfg(test)]
mod tests;
