//! Checking what others signed.
//!
//! Keys are passed in: fetching, caching and denylisting them is the federation service's work. Events are
//! verified differently from ruma in two places where ruma is stricter than the specification: the authorising
//! server must sign joins only, and one valid signature per required server is enough.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedServerName, OwnedServerSigningKeyId, ServerSigningKeyId,
    SigningKeyAlgorithm, UserId,
    canonical_json::RedactingSerializer,
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
    signatures::{self, content_hash, to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};

/// Public keys by entity (a server name, or a user id for cross-signing) and key id.
pub type PublicKeys = signatures::PublicKeyMap;

/// How long a key may be trusted past the moment it was fetched, in milliseconds, whatever it claims itself.
pub const MAX_KEY_VALIDITY_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Why signatures do not hold.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The object is too broken to be verified.
    #[error("malformed: {0}")]
    Malformed(String),
    /// A required entity did not sign, with any algorithm known here.
    #[error("no signature of {0}")]
    NoSignature(String),
    /// It signed, but none of the keys it used is known.
    #[error("no known key of {0} among its signatures")]
    NoKey(String),
    /// It signed with known keys, and no signature is right.
    #[error("wrong signature of {0}")]
    WrongSignature(String),
}

impl From<signatures::JsonError> for VerifyError {
    fn from(error: signatures::JsonError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// What a verified event deserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Signatures and content hash are right.
    All,
    /// The signatures are right and the content hash is not: keep the redacted form only.
    Signatures,
}

/// The servers whose signature an event needs, each with the ed25519 keys it signed with.
///
/// These are: the sender's server, unless the event turns a third-party invite into an invite; the server in
/// the event id, in versions 1 and 2; the server that authorised a restricted join.
///
/// Spec: Server-Server API, Validating hashes and signatures on received events.
pub fn required_signers(
    event: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<BTreeMap<OwnedServerName, BTreeSet<OwnedServerSigningKeyId>>, VerifyError> {
    let mut servers = BTreeSet::new();
    let member = MemberFields::of(event);
    if !member.is_third_party_invite {
        let sender = string(event, "sender").ok_or_else(|| malformed("no sender"))?;
        servers.insert(server_of_user(sender)?);
    }
    if rules.signatures.check_event_id_server {
        let event_id = string(event, "event_id").ok_or_else(|| malformed("no event_id"))?;
        let event_id = <&EventId>::try_from(event_id).map_err(malformed)?;
        let server = event_id.server_name().ok_or_else(|| malformed("event_id without a server name"))?;
        servers.insert(server.to_owned());
    }
    if rules.signatures.check_join_authorised_via_users_server
        && let Some(user) = member.authorised_join
    {
        servers.insert(server_of_user(user)?);
    }
    servers
        .into_iter()
        .map(|server| {
            let keys = signing_keys(event, server.as_str());
            if keys.is_empty() { Err(VerifyError::NoSignature(server.into())) } else { Ok((server, keys)) }
        })
        .collect()
}

/// What matters here of the content of a membership event.
#[derive(Default)]
struct MemberFields<'a> {
    is_third_party_invite: bool,
    authorised_join: Option<&'a str>,
}

impl<'a> MemberFields<'a> {
    fn of(event: &'a CanonicalJsonObject) -> Self {
        let content = match event.get("content") {
            Some(CanonicalJsonValue::Object(content)) if string(event, "type") == Some("m.room.member") => content,
            _ => return Self::default(),
        };
        let membership = string(content, "membership");
        Self {
            is_third_party_invite: membership == Some("invite")
                && matches!(content.get("third_party_invite"), Some(CanonicalJsonValue::Object(_))),
            authorised_join: string(content, "join_authorised_via_users_server").filter(|_| membership == Some("join")),
        }
    }
}

fn string<'a>(object: &'a CanonicalJsonObject, field: &str) -> Option<&'a str> {
    object.get(field)?.as_str()
}

fn malformed(reason: impl ToString) -> VerifyError {
    VerifyError::Malformed(reason.to_string())
}

fn server_of_user(user: &str) -> Result<OwnedServerName, VerifyError> {
    Ok(<&UserId>::try_from(user).map_err(malformed)?.server_name().to_owned())
}

/// The ed25519 key ids an entity signed with.
fn signing_keys(object: &CanonicalJsonObject, entity: &str) -> BTreeSet<OwnedServerSigningKeyId> {
    signatures_of(object, entity)
        .into_iter()
        .flat_map(|signatures| signatures.keys())
        .filter_map(|key_id| <&ServerSigningKeyId>::try_from(key_id.as_str()).ok())
        .filter(|key_id| key_id.algorithm() == SigningKeyAlgorithm::Ed25519)
        .map(ToOwned::to_owned)
        .collect()
}

pub(crate) fn signatures_of<'a>(object: &'a CanonicalJsonObject, entity: &str) -> Option<&'a CanonicalJsonObject> {
    object.get("signatures")?.as_object()?.get(entity)?.as_object()
}

/// Checks the signatures and the content hash of an event.
///
/// `keys` holds only keys that may be used for this event: see [`key_valid_for_event`].
///
/// Spec: Server-Server API, Validating hashes and signatures on received events.
pub fn verify_event(
    event: &CanonicalJsonObject,
    rules: &RoomVersionRules,
    keys: &PublicKeys,
) -> Result<Verified, VerifyError> {
    let text = RedactingSerializer::new()
        .rules(&rules.redaction)
        .custom_redacted_root_fields(&["signatures", "unsigned"])
        .serialize(event)
        .map_err(malformed)?;
    for server in required_signers(event, rules)?.keys() {
        verify_text(server.as_str(), event, keys, text.as_bytes())?;
    }
    let claimed = event.get("hashes").and_then(|hashes| string(hashes.as_object()?, "sha256"));
    let claimed = claimed.and_then(|hash| Base64::<Standard>::parse(hash).ok());
    let actual = content_hash(event)?;
    if claimed.is_some_and(|claimed| claimed.as_bytes() == actual.as_bytes()) {
        Ok(Verified::All)
    } else {
        Ok(Verified::Signatures)
    }
}

/// Whether `entity` signed an event with this key (in base64), which need not be one that it publishes.
///
/// Spec: Server-Server API, Validating policy server signatures.
pub fn is_event_signed_with(
    event: &CanonicalJsonObject,
    rules: &RoomVersionRules,
    entity: &str,
    key_id: &str,
    public_key: &str,
) -> bool {
    let text = RedactingSerializer::new()
        .rules(&rules.redaction)
        .custom_redacted_root_fields(&["signatures", "unsigned"])
        .serialize(event);
    let (Ok(text), Ok(key)) = (text, Base64::<Standard>::parse(public_key)) else { return false };
    let keys = PublicKeys::from([(entity.to_owned(), BTreeMap::from([(key_id.to_owned(), key)]))]);
    verify_text(entity, event, &keys, text.as_bytes()).is_ok()
}

/// Checks that `entity` signed the object, whoever else did or failed to.
///
/// Spec: Appendices, Checking for a signature.
pub fn verify_json(entity: &str, keys: &PublicKeys, object: &CanonicalJsonObject) -> Result<(), VerifyError> {
    let text = to_canonical_json_string_for_signing(object)?;
    verify_text(entity, object, keys, text.as_bytes())
}

/// Checks one signature in unpadded base64 over text as it stands, such as that of a signed request.
pub fn verify_bytes(
    entity: &str,
    key_id: &str,
    keys: &PublicKeys,
    signature: &str,
    message: &[u8],
) -> Result<(), VerifyError> {
    let algorithm = <&ServerSigningKeyId>::try_from(key_id).map_err(malformed)?.algorithm();
    let key =
        keys.get(entity).and_then(|keys| keys.get(key_id)).ok_or_else(|| VerifyError::NoKey(entity.to_owned()))?;
    let signature = Base64::<Standard>::parse(signature).map_err(malformed)?;
    verify_canonical_json_bytes(&algorithm, key.as_bytes(), signature.as_bytes(), message)
        .map_err(|_| VerifyError::WrongSignature(entity.to_owned()))
}

fn verify_text(entity: &str, object: &CanonicalJsonObject, keys: &PublicKeys, text: &[u8]) -> Result<(), VerifyError> {
    let signatures = signatures_of(object, entity).ok_or_else(|| VerifyError::NoSignature(entity.to_owned()))?;
    let mut outcome = VerifyError::NoKey(entity.to_owned());
    for (key_id, signature) in signatures {
        let Some(signature) = signature.as_str() else {
            continue;
        };
        match verify_bytes(entity, key_id, keys, signature, text) {
            Ok(()) => return Ok(()),
            Err(VerifyError::NoKey(_)) => {}
            Err(_) => outcome = VerifyError::WrongSignature(entity.to_owned()),
        }
    }
    Err(outcome)
}

/// Whether a key may vouch for an event of that time. All times are milliseconds since the epoch.
///
/// From room version 5 a key counts up to `valid_until_ts`, and never more than 7 days past the moment it was
/// fetched; before, it counts for ever.
///
/// Spec: room version 5, Signing key validity period.
pub fn key_valid_for_event(
    rules: &RoomVersionRules,
    valid_until_ts: u64,
    fetched_at: u64,
    origin_server_ts: u64,
) -> bool {
    !rules.enforce_key_validity
        || origin_server_ts <= valid_until_ts.min(fetched_at.saturating_add(MAX_KEY_VALIDITY_MS))
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::{Value as JsonValue, json};

    use super::*;
    use crate::{
        redact::redact_object,
        sign::tests::{object, signer},
    };

    fn message(sender: &str) -> JsonValue {
        json!({
            "room_id": "!x:a", "sender": sender, "origin_server_ts": 1, "type": "m.room.message",
            "content": {"body": "hi"}, "prev_events": [], "auth_events": [], "depth": 3,
        })
    }

    #[test]
    fn changed_body_leaves_signatures_and_breaks_the_hash() {
        let rules = RoomVersionId::V10.rules().unwrap();
        let mut event = object(message("@u:a"));
        signer("a").hash_and_sign_event(&mut event, &rules).unwrap();
        event.insert("content".to_owned(), CanonicalJsonValue::Object(object(json!({"body": "forged"}))));
        let keys = signer("a").public_keys();
        assert_eq!(verify_event(&event, &rules, &keys).unwrap(), Verified::Signatures);
        let redacted = redact_object(event.clone(), &rules).unwrap();
        assert_eq!(verify_event(&redacted, &rules, &keys).unwrap(), Verified::Signatures);
        event.insert("sender".to_owned(), "@v:a".to_owned().into());
        assert!(matches!(verify_event(&event, &rules, &keys), Err(VerifyError::WrongSignature(_))));
    }

    #[test]
    fn every_failure_of_a_signature_is_told_apart() {
        let rules = RoomVersionId::V10.rules().unwrap();
        let mut event = object(message("@u:a"));
        assert!(matches!(required_signers(&event, &rules), Err(VerifyError::NoSignature(server)) if server == "a"));
        signer("b").hash_and_sign_event(&mut event, &rules).unwrap();
        assert!(matches!(verify_event(&event, &rules, &PublicKeys::new()), Err(VerifyError::NoSignature(_))));
        signer("a").sign_event(&mut event, &rules).unwrap();
        assert!(matches!(verify_event(&event, &rules, &PublicKeys::new()), Err(VerifyError::NoKey(_))));
        // The signature of a server nobody asked about does not matter.
        assert!(verify_event(&event, &rules, &signer("a").public_keys()).is_ok());
        let sender = object(json!({"content": {}, "type": "m.x"}));
        assert!(matches!(required_signers(&sender, &rules), Err(VerifyError::Malformed(_))));
    }

    #[test]
    fn authorising_server_signs_joins_and_nothing_else() {
        let signers = |kind: &str, membership: &str, version: RoomVersionId| {
            let mut event = message("@u:a");
            event["type"] = kind.into();
            event["content"] = json!({"membership": membership, "join_authorised_via_users_server": "@v:b"});
            event["signatures"] = json!({"a": {"ed25519:1": "s"}, "b": {"ed25519:1": "s", "rsa:1": "s"}});
            let signers = required_signers(&object(event), &version.rules().unwrap()).unwrap();
            signers.keys().map(|server| server.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(signers("m.room.member", "join", RoomVersionId::V8), "a b");
        assert_eq!(signers("m.room.member", "join", RoomVersionId::V7), "a");
        assert_eq!(signers("m.room.member", "leave", RoomVersionId::V8), "a");
        assert_eq!(signers("m.room.message", "join", RoomVersionId::V8), "a");
    }

    #[test]
    fn third_party_invite_needs_no_signature_of_the_sender() {
        let mut event = message("@u:a");
        event["type"] = "m.room.member".into();
        event["content"] = json!({"membership": "invite", "third_party_invite": {}});
        assert!(required_signers(&object(event.clone()), &RoomVersionId::V10.rules().unwrap()).unwrap().is_empty());
        event["content"]["membership"] = "join".into();
        assert!(required_signers(&object(event), &RoomVersionId::V10.rules().unwrap()).is_err());
    }

    #[test]
    fn server_in_the_event_id_signs_in_version_2() {
        let mut event = message("@u:a");
        event["event_id"] = "$e:b".into();
        event["signatures"] = json!({"a": {"ed25519:1": "s"}, "b": {"ed25519:1": "s"}});
        let signers =
            |version: RoomVersionId| required_signers(&object(event.clone()), &version.rules().unwrap()).unwrap().len();
        assert_eq!(signers(RoomVersionId::V2), 2);
        assert_eq!(signers(RoomVersionId::V3), 1);
    }

    #[test]
    fn keys_expire_from_version_5() {
        let day = 24 * 60 * 60 * 1000;
        let valid = |version: RoomVersionId, valid_until: u64, fetched: u64, event: u64| {
            key_valid_for_event(&version.rules().unwrap(), valid_until, fetched, event)
        };
        assert!(valid(RoomVersionId::V4, 10, 0, 11));
        assert!(valid(RoomVersionId::V5, 10, 0, 10));
        assert!(!valid(RoomVersionId::V5, 10, 0, 11));
        assert!(valid(RoomVersionId::V5, 100 * day, day, 8 * day));
        assert!(!valid(RoomVersionId::V5, 100 * day, day, 8 * day + 1));
    }

    #[test]
    fn other_entities_cannot_spoil_a_wanted_signature() {
        let mut signed = object(json!({"a": 1}));
        signer("a").sign_json(&mut signed).unwrap();
        let signatures = signed.get_mut("signatures").unwrap().as_object_mut().unwrap();
        signatures.insert("b".to_owned(), CanonicalJsonValue::String("nonsense".to_owned()));
        let entry = signatures.get_mut("a").unwrap().as_object_mut().unwrap();
        entry.insert("ed25519:lost".to_owned(), CanonicalJsonValue::String("nonsense".to_owned()));
        entry.insert("dilithium:1".to_owned(), CanonicalJsonValue::Null);
        verify_json("a", &signer("a").public_keys(), &signed).unwrap();
        assert!(matches!(verify_json("b", &signer("a").public_keys(), &signed), Err(VerifyError::NoSignature(_))));
    }

    #[test]
    fn text_signature_round_trips() {
        let key = signer("a");
        let signature = key.sign_bytes(b"text");
        verify_bytes("a", "ed25519:1", &key.public_keys(), &signature, b"text").unwrap();
        assert!(verify_bytes("a", "ed25519:1", &key.public_keys(), &signature, b"tex").is_err());
        assert!(verify_bytes("a", "ed25519:2", &key.public_keys(), &signature, b"text").is_err());
        assert!(verify_bytes("a", "ed25519:1", &key.public_keys(), "!", b"text").is_err());
    }
}
