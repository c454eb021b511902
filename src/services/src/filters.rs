//! Filters that clients store to name them in `/sync` and `/messages` (client-server API, "Filtering").

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chappe_store::{Batch, CommitError, Store, StoreError, tables::accounts::FILTERS};
use ruma::{UserId, api::client::filter::FilterDefinition};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Longest filter, in bytes of JSON.
const FILTER_BYTES_MAX: usize = 64 << 10;

/// A filter that was not stored.
#[derive(Debug, thiserror::Error)]
pub enum CreateFilterError {
    #[error("the filter is malformed: {0}")]
    Malformed(serde_json::Error),
    #[error("the filter is longer than {FILTER_BYTES_MAX} bytes")]
    TooLong,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// The stored filters of this server's users.
pub struct Filters {
    store: Store,
}

impl Filters {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Stores a filter and gives its id. It is kept as sent, unknown parts included; the same filter has the same id.
    pub async fn create_filter(&self, user_id: &UserId, filter: &RawValue) -> Result<String, CreateFilterError> {
        if filter.get().len() > FILTER_BYTES_MAX {
            return Err(CreateFilterError::TooLong);
        }
        serde_json::from_str::<FilterDefinition>(filter.get()).map_err(CreateFilterError::Malformed)?;
        let digest = Sha256::digest(filter.get().as_bytes());
        // Never begins with a brace, by which clients and the server tell an id from a filter in place.
        let filter_id = BASE64_URL_SAFE_NO_PAD.encode(digest.get(..12).unwrap_or_default());
        let key = (user_id.to_owned(), filter_id.clone());
        if self.store.contains(&FILTERS, &key)? {
            self.store.barrier().await?;
        } else {
            let mut batch = Batch::new();
            batch.put(&FILTERS, &key, &filter.get().to_owned());
            self.store.commit(batch).await?;
        }
        Ok(filter_id)
    }

    /// A stored filter as it was sent, as JSON text.
    pub fn get_filter_json(&self, user_id: &UserId, filter_id: &str) -> Result<Option<String>, StoreError> {
        self.store.get(&FILTERS, &(user_id.to_owned(), filter_id.to_owned()))
    }

    /// A stored filter, parsed.
    pub fn get_filter(&self, user_id: &UserId, filter_id: &str) -> Result<Option<FilterDefinition>, StoreError> {
        let json = self.get_filter_json(user_id, filter_id)?;
        // What is stored was parsed before; a version of the program that no longer takes it treats it as unknown.
        Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[tokio::test]
    async fn stored_filter_comes_back_as_it_was_sent() {
        let filters = Filters::new(Store::in_memory());
        let alice = user_id!("@alice:example.org");
        let json = r#"{"room":{"timeline":{"limit":10,"org.example.unknown":true}}}"#;
        let id = filters.create_filter(alice, &RawValue::from_string(json.to_owned()).unwrap()).await.unwrap();
        let again = filters.create_filter(alice, &RawValue::from_string(json.to_owned()).unwrap()).await.unwrap();
        assert_eq!(id, again);
        assert_eq!(filters.get_filter_json(alice, &id).unwrap().as_deref(), Some(json));
        assert_eq!(filters.get_filter(alice, &id).unwrap().unwrap().room.timeline.limit, Some(10_u32.into()));
        assert_eq!(filters.get_filter_json(user_id!("@bob:example.org"), &id).unwrap(), None);
    }

    #[tokio::test]
    async fn malformed_filters_are_refused() {
        let filters = Filters::new(Store::in_memory());
        for json in [
            r#"{"presence":"not_an_object"}"#,
            r#"{"room":{"timeline":{"types":[1]}}}"#,
            r#"{"room":{"timeline":{"rooms":["not_a_room_id"]}}}"#,
            r#"{"room":{"timeline":{"senders":["not_a_sender_id"]}}}"#,
        ] {
            let filter = RawValue::from_string(json.to_owned()).unwrap();
            let outcome = filters.create_filter(user_id!("@alice:example.org"), &filter).await;
            assert!(matches!(outcome, Err(CreateFilterError::Malformed(_))), "{json}");
        }
    }
}
