//! Checks of signatures that users' keys make over JSON objects.
//!
//! One named signature at a time: an object may carry others that this server cannot check, and need not.
//!
//! Spec: Appendices, Signing JSON.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use chappe_store::tables::e2ee::JsonObject;
use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use ruma::{UserId, canonical_json::try_from_json_map};
use serde_json::Value;

/// The signature is missing, malformed or does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid signature")]
pub(crate) struct InvalidSignature;

/// The signature that `signer` made with the key `key_id` (with its algorithm), if the object carries one.
pub(crate) fn get_signature<'a>(object: &'a JsonObject, signer: &UserId, key_id: &str) -> Option<&'a str> {
    object.get("signatures")?.get(signer.as_str())?.get(key_id)?.as_str()
}

/// Checks one signature of an object. `public_key` is unpadded base64.
pub(crate) fn check_signature(
    object: &JsonObject,
    signer: &UserId,
    key_id: &str,
    public_key: &str,
) -> Result<(), InvalidSignature> {
    if !key_id.starts_with("ed25519:") {
        return Err(InvalidSignature);
    }
    let signature = get_signature(object, signer, key_id).ok_or(InvalidSignature)?;
    let signature = Signature::from_slice(&decode(signature)?).map_err(|_| InvalidSignature)?;
    let public_key: [u8; 32] = decode(public_key)?.try_into().map_err(|_| InvalidSignature)?;
    let public_key = VerifyingKey::from_bytes(&public_key).map_err(|_| InvalidSignature)?;
    let text = signed_text(object).ok_or(InvalidSignature)?;
    public_key.verify(text.as_bytes(), &signature).map_err(|_| InvalidSignature)
}

/// The canonical JSON that signatures are made over.
pub(crate) fn signed_text(object: &JsonObject) -> Option<String> {
    let mut object = object.clone();
    object.remove("signatures");
    object.remove("unsigned");
    serde_json::to_string(&try_from_json_map(object).ok()?).ok()
}

/// Adds a signature to an object that is about to be handed out.
pub(crate) fn add_signature(object: &mut JsonObject, signer: &UserId, key_id: &str, signature: &str) {
    let signatures = object.entry("signatures").or_insert_with(|| Value::Object(JsonObject::new()));
    if let Some(signatures) = signatures.as_object_mut()
        && let Some(of_signer) =
            signatures.entry(signer.as_str()).or_insert_with(|| Value::Object(JsonObject::new())).as_object_mut()
    {
        of_signer.insert(key_id.to_owned(), Value::from(signature));
    }
}

fn decode(text: &str) -> Result<Vec<u8>, InvalidSignature> {
    STANDARD_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| InvalidSignature)
}
