//! Vouching for other servers' keys, and letting others vouch.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chappe_protocol::{json::parse_strict, sign::verify_json};
use chappe_store::tables::server_keys::SERVER_KEY_DOCUMENTS;
use futures_util::{StreamExt, stream};
use http::Method;
use ruma::{CanonicalJsonValue, OwnedServerName, OwnedServerSigningKeyId, ServerName};
use serde::Deserialize;
use serde_json::{json, value::RawValue as RawJsonValue};

use super::{DOCUMENT_BYTES_MAX, FETCH_TIMEOUT, FetchKeysError, KeyDocument, ServerKeys, document::DocumentError};
use crate::federation::client::FederationRequest;

/// How many servers one query may ask about.
pub const QUERY_SERVERS_MAX: usize = 100;
/// How many of them are fetched at the same time.
const QUERY_CONCURRENCY: usize = 8;

/// What a notary is asked, by server.
pub type NotaryQuery = BTreeMap<OwnedServerName, NotaryCriteria>;

/// Which keys of a server are asked for. Instants are milliseconds since the epoch.
#[derive(Clone, Debug, Default)]
pub struct NotaryCriteria {
    /// The document should be valid until then, and in any case now.
    pub valid_until_ms: u64,
    /// Keys that it should list, each with the instant until which it should be valid. None: every key.
    pub keys: BTreeMap<OwnedServerSigningKeyId, u64>,
}

#[derive(Deserialize)]
struct NotaryAnswer {
    #[serde(default)]
    server_keys: Vec<Box<RawJsonValue>>,
}

impl ServerKeys {
    /// Answers a notary query with the documents of those servers, as they signed them, signed by this server too. Servers that
    /// cannot be asked and are not known are left out.
    ///
    /// Spec: Server-Server API, Querying Keys Through Another Server.
    pub async fn query_notary(&self, wanted: NotaryQuery) -> Vec<Box<RawJsonValue>> {
        let documents = stream::iter(wanted.into_iter().take(QUERY_SERVERS_MAX))
            .map(|(server, criteria)| async move { self.vouched_document(&server, &criteria).await })
            .buffered(QUERY_CONCURRENCY);
        documents.filter_map(|document| async move { document }).collect().await
    }

    async fn vouched_document(
        &self,
        server: &ServerName,
        NotaryCriteria { valid_until_ms, keys }: &NotaryCriteria,
    ) -> Option<Box<RawJsonValue>> {
        if server == self.inner.signer.server_name() {
            return RawJsonValue::from_string(self.own_document().ok()?).ok();
        }
        // This server vouches for nobody whom it does not talk to.
        self.inner.client.policy().check(server).ok()?;
        let valid_until_ms = keys.values().copied().chain([*valid_until_ms, self.inner.clock.now_ms()]).max()?;
        let stored = self.get_document(server);
        let fresh = stored.as_ref().is_some_and(|document| {
            let listed: BTreeSet<_> = document.keys().map(|(key_id, _, _)| key_id).collect();
            document.valid_until_ms >= valid_until_ms && keys.keys().all(|key_id| listed.contains(key_id))
        });
        let document = if fresh {
            stored
        } else {
            // Asking for a key that does not exist must not make us ask the server each time: `fetch_once` pauses.
            let key_ids = keys.keys().cloned().collect();
            if let Err(error) = self.fetch_once(server, &key_ids, valid_until_ms).await {
                tracing::debug!(server = %server, %error, "keys could not be fetched for a notary query");
            }
            self.get_document(server).or(stored)
        };
        let document = document?;
        if !self.is_as_pinned(&document) {
            tracing::warn!(server = %server, "the server publishes other keys than those pinned: they are not vouched for");
            return None;
        }
        let mut object = document.object;
        self.inner.signer.sign_json(&mut object).ok()?;
        RawJsonValue::from_string(CanonicalJsonValue::Object(object).to_string()).ok()
    }

    fn get_document(&self, server: &ServerName) -> Option<KeyDocument> {
        let text: Bytes = self.inner.store.get(&SERVER_KEY_DOCUMENTS, &server.to_owned()).ok()??;
        KeyDocument::verify(std::str::from_utf8(&text).ok()?, server).ok()
    }

    /// Whether a document lists no key but those pinned of its server, if some are.
    fn is_as_pinned(&self, document: &KeyDocument) -> bool {
        let pinned = self.inner.pinned.read();
        let Some(pinned) = pinned.get(&document.server) else { return true };
        let mut current = document.keys().filter(|(_, _, retired)| retired.is_none());
        current.all(|(key_id, key, _)| pinned.get(key_id).is_some_and(|pinned| pinned == key))
    }

    /// Asks a notary for the keys of another server. The notary must have signed the answer, and so must the other server.
    pub(super) async fn fetch_from_notary(
        &self,
        notary: &ServerName,
        server: &ServerName,
        valid_until_ms: u64,
    ) -> Result<KeyDocument, FetchKeysError> {
        let body = json!({ "server_keys": { server.as_str(): {} }, "minimum_valid_until_ts": valid_until_ms });
        let request = FederationRequest {
            timeout: FETCH_TIMEOUT,
            answer_bytes_max: DOCUMENT_BYTES_MAX,
            ..FederationRequest::new(Method::POST, "/_matrix/key/v2/query".to_owned()).with_body(body)
        };
        let answer: NotaryAnswer = self.inner.client.request_unsigned(notary, request).await?;
        let notary_keys =
            match self.get_document(notary).filter(|document| document.valid_until_ms > self.inner.clock.now_ms()) {
                Some(document) => document,
                None => {
                    let document = self.fetch_direct(notary).await?;
                    self.apply_document(&document)?;
                    document
                }
            };
        if !self.is_as_pinned(&notary_keys) {
            return Err(FetchKeysError::NoNotary(server.to_owned()));
        }
        let current = notary_keys.keys().filter(|(_, _, retired)| retired.is_none());
        let by_id =
            current.map(|(key_id, key, _)| (key_id.to_string(), ruma::serde::Base64::new(key.to_vec()))).collect();
        let notary_keys = BTreeMap::from([(notary.to_string(), by_id)]);
        for raw in answer.server_keys {
            let Ok(document) = KeyDocument::verify(raw.get(), server) else { continue };
            let object = parse_strict(raw.get()).map_err(DocumentError::from)?;
            verify_json(notary.as_str(), &notary_keys, &object).map_err(DocumentError::from)?;
            return Ok(document);
        }
        Err(FetchKeysError::NoNotary(server.to_owned()))
    }
}
