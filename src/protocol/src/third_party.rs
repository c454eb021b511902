//! Third-party invites: which keys an identity server's word about a user was signed with.
//!
//! Whether an invite event may stand on it is a question of [`crate::auth`]; this is for the server that issues the event, which must
//! also ask whether the keys are still valid.
//!
//! Spec: Server-Server API, Third-party invites; Client-Server API, `m.room.third_party_invite`.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue,
    serde::{Base64, base64::Standard, base64::UrlSafe},
    signatures::verify_canonical_json_bytes,
};
use serde_json::Value as JsonValue;

use crate::json;

/// How many keys of one invite are looked at.
const KEYS_MAX: usize = 50;

/// A key of an `m.room.third_party_invite` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteKey {
    /// As the event has it, in base64.
    pub public_key: String,
    /// Where to ask whether the key still counts; none where it always does.
    pub key_validity_url: Option<String>,
}

/// The keys that `m.room.third_party_invite` content names.
fn named_keys(content: &JsonValue) -> Vec<InviteKey> {
    let text = |object: &JsonValue, field: &str| object.get(field).and_then(JsonValue::as_str).map(str::to_owned);
    let read = |object: &JsonValue| {
        Some(InviteKey { public_key: text(object, "public_key")?, key_validity_url: text(object, "key_validity_url") })
    };
    let listed = content.get("public_keys").and_then(JsonValue::as_array).into_iter().flatten();
    listed.chain([content]).filter_map(read).take(KEYS_MAX).collect()
}

/// The keys of an `m.room.third_party_invite` event's content that the `signed` object of an invite is signed with.
pub fn signing_keys(content: &JsonValue, signed: &CanonicalJsonObject) -> Vec<InviteKey> {
    let mut bare = signed.clone();
    bare.remove("unsigned");
    let Some(CanonicalJsonValue::Object(signatures)) = bare.remove("signatures") else { return Vec::new() };
    let Ok(text) = json::canonical(&bare) else { return Vec::new() };
    let is_signed_with = |key: &InviteKey| {
        let Some(public_key) = decode(&key.public_key) else { return false };
        let by_entity = signatures.values().filter_map(|entity| match entity {
            CanonicalJsonValue::Object(by_key) => Some(by_key),
            _ => None,
        });
        by_entity.flatten().any(|(key_id, signature)| {
            let algorithm = key_id.split(':').next().unwrap_or_default();
            let signature = signature.as_str().and_then(decode);
            signature.is_some_and(|signature| {
                verify_canonical_json_bytes(&algorithm.into(), &public_key, &signature, text.as_bytes()).is_ok()
            })
        })
    };
    named_keys(content).into_iter().filter(is_signed_with).collect()
}

/// Identity servers have published keys in either alphabet.
fn decode(text: &str) -> Option<Vec<u8>> {
    let standard = Base64::<Standard>::parse(text).map(Base64::into_inner);
    standard.or_else(|_| Base64::<UrlSafe>::parse(text).map(Base64::into_inner)).ok()
}

#[cfg(test)]
mod tests {
    use ruma::owned_server_name;
    use serde_json::json;

    use super::*;
    use crate::sign::ServerSigner;

    #[test]
    fn only_the_keys_that_signed_are_found_and_nothing_signed_is_changed() {
        let identity = ServerSigner::from_seed(owned_server_name!("id.example"), "0", &[3; 32]).unwrap();
        let other = ServerSigner::from_seed(owned_server_name!("id.example"), "0", &[4; 32]).unwrap();
        let text = r#"{"mxid":"@bob:b.example","sender":"@alice:a.example","token":"abc"}"#;
        let mut signed = json::parse_strict(text).unwrap();
        identity.sign_json(&mut signed).unwrap();
        let content = json!({
            "display_name": "b...", "public_key": other.verify_key_base64(), "key_validity_url": "https://id.example/other",
            "public_keys": [
                { "public_key": identity.verify_key_base64(), "key_validity_url": "https://id.example/valid" },
                { "public_key": "no key" }, 7,
            ],
        });
        let found = InviteKey {
            public_key: identity.verify_key_base64(),
            key_validity_url: Some("https://id.example/valid".to_owned()),
        };
        assert_eq!(signing_keys(&content, &signed), [found]);
        signed.insert("token".to_owned(), CanonicalJsonValue::String("other".to_owned()));
        assert_eq!(signing_keys(&content, &signed), []);
    }
}
