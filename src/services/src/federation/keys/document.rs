//! A key document: `GET /_matrix/key/v2/server` and what notaries pass on.

use std::collections::BTreeMap;

use chappe_protocol::{
    json::{JsonError, canonical, parse_strict},
    sign::{PublicKeys, ServerSigner, SignError, VerifyError, verify_json},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedServerSigningKeyId, ServerName, serde::Base64,
};
use serde::Deserialize;
use serde_json::json;

use super::RetiredKey;

/// The most keys one document may list.
const KEYS_MAX: usize = 200;

/// Why a key document is not believed.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("key document: {0}")]
    Json(#[from] JsonError),
    #[error("key document: {0}")]
    Fields(#[from] serde_json::Error),
    #[error("key document is that of {0}")]
    OtherServer(OwnedServerName),
    #[error("key document lists too many keys")]
    TooManyKeys,
    #[error("key document: {0}")]
    Signature(#[from] VerifyError),
}

/// A key document whose own signature holds.
#[derive(Clone, Debug)]
pub struct KeyDocument {
    pub server: OwnedServerName,
    /// Milliseconds since the epoch.
    pub valid_until_ms: u64,
    /// The whole document, canonical, with every signature it came with.
    pub text: String,
    pub object: CanonicalJsonObject,
    current: BTreeMap<OwnedServerSigningKeyId, Vec<u8>>,
    retired: BTreeMap<OwnedServerSigningKeyId, (Vec<u8>, u64)>,
}

#[derive(Deserialize)]
struct Fields {
    server_name: OwnedServerName,
    #[serde(default)]
    verify_keys: BTreeMap<String, CurrentKey>,
    #[serde(default)]
    old_verify_keys: BTreeMap<String, OldKey>,
    valid_until_ts: u64,
}

#[derive(Deserialize)]
struct CurrentKey {
    key: Base64,
}

#[derive(Deserialize)]
struct OldKey {
    key: Base64,
    expired_ts: u64,
}

impl KeyDocument {
    /// Reads a document and checks that `server` signed it with one of the keys it lists as current.
    ///
    /// Spec: Server-Server API, Retrieving server keys.
    pub fn verify(text: &str, server: &ServerName) -> Result<Self, DocumentError> {
        let object = parse_strict(text)?;
        let fields: Fields = serde_json::from_str(text)?;
        if fields.server_name != server {
            return Err(DocumentError::OtherServer(fields.server_name));
        }
        if fields.verify_keys.len() + fields.old_verify_keys.len() > KEYS_MAX {
            return Err(DocumentError::TooManyKeys);
        }
        let by_id: BTreeMap<String, Base64> = fields
            .verify_keys
            .iter()
            .map(|(key_id, key)| (key_id.clone(), Base64::new(key.key.as_bytes().to_vec())))
            .collect();
        verify_json(server.as_str(), &PublicKeys::from([(server.to_string(), by_id)]), &object)?;
        // Keys of algorithms that are not known here are passed over.
        let current = fields
            .verify_keys
            .into_iter()
            .filter_map(|(key_id, key)| Some((key_id.try_into().ok()?, key.key.into_inner())))
            .collect();
        let retired = fields
            .old_verify_keys
            .into_iter()
            .filter_map(|(key_id, key)| Some((key_id.try_into().ok()?, (key.key.into_inner(), key.expired_ts))))
            .collect();
        Ok(Self {
            server: fields.server_name,
            valid_until_ms: fields.valid_until_ts,
            text: canonical(&object)?,
            object,
            current,
            retired,
        })
    }

    /// Every key: its id, its bytes, and for a retired one when it expired in milliseconds since the epoch.
    pub fn keys(&self) -> impl Iterator<Item = (&OwnedServerSigningKeyId, &[u8], Option<u64>)> {
        let retired = self
            .retired
            .iter()
            .filter(|(key_id, _)| !self.current.contains_key(*key_id))
            .map(|(key_id, (key, expired_ms))| (key_id, key.as_slice(), Some(*expired_ms)));
        self.current.iter().map(|(key_id, key)| (key_id, key.as_slice(), None)).chain(retired)
    }
}

/// This server's own document, signed.
pub(super) fn write_own(
    signer: &ServerSigner,
    retired: &[RetiredKey],
    valid_until_ms: u64,
) -> Result<String, SignError> {
    let old_verify_keys: serde_json::Map<_, _> = retired
        .iter()
        .map(|key| (key.key_id.to_string(), json!({ "key": key.public_key, "expired_ts": key.expired_ms })))
        .collect();
    let mut verify_keys = serde_json::Map::new();
    verify_keys.insert(signer.key_id().to_string(), json!({ "key": signer.verify_key_base64() }));
    let fields = json!({
        "server_name": signer.server_name(),
        "verify_keys": verify_keys,
        "old_verify_keys": old_verify_keys,
        "valid_until_ts": valid_until_ms,
    });
    let mut object = match CanonicalJsonValue::try_from(fields) {
        Ok(CanonicalJsonValue::Object(object)) => object,
        // Strings and an instant: always canonical.
        _ => CanonicalJsonObject::new(),
    };
    signer.sign_json(&mut object)?;
    Ok(CanonicalJsonValue::Object(object).to_string())
}

#[cfg(test)]
mod tests {
    use ruma::{owned_server_name, server_name};

    use super::*;

    fn signer(name: OwnedServerName, seed: u8) -> ServerSigner {
        ServerSigner::from_seed(name, "k1", &[seed; 32]).expect("a signer")
    }

    #[test]
    fn own_document_verifies_and_lists_present_and_past_keys() {
        let retired = RetiredKey {
            key_id: "ed25519:old".try_into().expect("a key id"),
            public_key: signer(owned_server_name!("a.example"), 9).verify_key_base64(),
            expired_ms: 5,
        };
        let text = write_own(&signer(owned_server_name!("a.example"), 1), &[retired], 77).expect("a document");
        let document = KeyDocument::verify(&text, server_name!("a.example")).expect("a valid document");
        assert_eq!(document.valid_until_ms, 77);
        assert_eq!(document.text, text);
        let keys: Vec<_> =
            document.keys().map(|(key_id, key, retired)| (key_id.to_string(), key.len(), retired)).collect();
        assert_eq!(keys, [("ed25519:k1".to_owned(), 32, None), ("ed25519:old".to_owned(), 32, Some(5))]);
    }

    #[test]
    fn document_of_another_server_is_refused() {
        let text = write_own(&signer(owned_server_name!("a.example"), 1), &[], 77).expect("a document");
        assert!(matches!(KeyDocument::verify(&text, server_name!("b.example")), Err(DocumentError::OtherServer(_))));
    }

    #[test]
    fn changed_or_unsigned_document_is_refused() {
        let text = write_own(&signer(owned_server_name!("a.example"), 1), &[], 77).expect("a document");
        let changed = text.replace("77", "78");
        assert!(matches!(KeyDocument::verify(&changed, server_name!("a.example")), Err(DocumentError::Signature(_))));
        let other_key = signer(owned_server_name!("a.example"), 2).verify_key_base64();
        let replaced = text.replace(&signer(owned_server_name!("a.example"), 1).verify_key_base64(), &other_key);
        assert!(matches!(KeyDocument::verify(&replaced, server_name!("a.example")), Err(DocumentError::Signature(_))));
        let unsigned = r#"{"server_name":"a.example","valid_until_ts":1,"verify_keys":{}}"#;
        assert!(matches!(KeyDocument::verify(unsigned, server_name!("a.example")), Err(DocumentError::Signature(_))));
        for broken in ["", "[]", "{}", r#"{"server_name":"a.example"}"#] {
            assert!(KeyDocument::verify(broken, server_name!("a.example")).is_err(), "{broken}");
        }
    }
}
