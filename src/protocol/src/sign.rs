//! Signing what this server says, and checking what others signed.
//!
//! Keys are passed in: fetching, caching and denylisting them is the federation service's work. Event
//! verification here differs from ruma's in two places where ruma is stricter than the specification: the
//! authorising server must sign joins only, and one valid signature per required server is enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use rand::TryCryptoRng;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedServerName, OwnedServerSigningKeyId,
    ServerName, ServerSigningKeyId, SigningKeyAlgorithm, SigningKeyId, UserId,
    canonical_json::RedactingSerializer,
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
    signatures::{
        self, KeyPair, Signature, content_hash, to_canonical_json_string_for_signing,
        verify_canonical_json_bytes,
    },
};

/// Public keys by entity (a server name, or a user id for cross-signing) and key id.
pub type PublicKeys = signatures::PublicKeyMap;

/// How long a key may be trusted past the moment it was fetched, in milliseconds, whatever it claims itself.
pub const MAX_KEY_VALIDITY_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Why a signing key could not be read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a line of the form `ed25519 <version> <seed>`.
    #[error("expected `ed25519 <version> <base64 seed of 32 bytes>`")]
    Malformed,
    /// The version holds characters a key id cannot.
    #[error("the key version may contain only letters, digits and underscores")]
    Version,
    /// The source of randomness failed.
    #[error("no randomness: {0}")]
    Randomness(String),
}

/// Why something could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign: {0}")]
pub struct SignError(#[from] signatures::JsonError);

/// This server's name and signing key.
#[derive(Clone)]
pub struct ServerSigner {
    server_name: OwnedServerName,
    key_id: OwnedServerSigningKeyId,
    key: SigningKey,
}

impl fmt::Debug for ServerSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSigner")
            .field("server_name", &self.server_name)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl ServerSigner {
    /// The signer of a 32-byte seed. `version` is the part of the key id after `ed25519:`.
    pub fn from_seed(
        server_name: OwnedServerName,
        version: &str,
        seed: &[u8; 32],
    ) -> Result<Self, KeyError> {
        if version.is_empty()
            || !version
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            return Err(KeyError::Version);
        }
        let key_id = format!("ed25519:{version}")
            .as_str()
            .try_into()
            .map_err(|_| KeyError::Version)?;
        Ok(Self {
            server_name,
            key_id,
            key: SigningKey::from_bytes(seed),
        })
    }

    /// A fresh key with a random version, from the given source of randomness.
    pub fn generate<R: TryCryptoRng + ?Sized>(
        server_name: OwnedServerName,
        rng: &mut R,
    ) -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        rng.try_fill_bytes(&mut seed)
            .map_err(|error| KeyError::Randomness(error.to_string()))?;
        let mut version = [0; 4];
        rng.try_fill_bytes(&mut version)
            .map_err(|error| KeyError::Randomness(error.to_string()))?;
        let version: String = version.iter().map(|b| char::from(b'a' + b % 26)).collect();
        Self::from_seed(server_name, &format!("a_{version}"), &seed)
    }

    /// Reads a key from a line `ed25519 <version> <base64 seed>`, the form Synapse keeps its keys in.
    pub fn from_text(server_name: OwnedServerName, text: &str) -> Result<Self, KeyError> {
        let mut words = text.split_whitespace();
        let (Some("ed25519"), Some(version), Some(seed), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(KeyError::Malformed);
        };
        // ruma's decoder does not mind padding or stray bits in the last character; other servers write both.
        let seed = Base64::<Standard, [u8; 32]>::parse(seed).map_err(|_| KeyError::Malformed)?;
        Self::from_seed(server_name, version, seed.as_inner())
    }

    /// The line [`ServerSigner::from_text`] reads. It holds the secret.
    pub fn to_text(&self) -> String {
        format!(
            "ed25519 {} {}\n",
            self.key_id.key_name(),
            STANDARD_NO_PAD.encode(self.key.to_bytes())
        )
    }

    /// The name this key signs for.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// The key id, such as `ed25519:a_bcde`.
    pub fn key_id(&self) -> &ServerSigningKeyId {
        &self.key_id
    }

    /// The public key in unpadded base64, as published in `verify_keys`.
    pub fn verify_key_base64(&self) -> String {
        STANDARD_NO_PAD.encode(self.key.verifying_key().to_bytes())
    }

    /// This server's own entry for a map of public keys.
    pub fn public_keys(&self) -> PublicKeys {
        let key = Base64::new(self.key.verifying_key().to_bytes().to_vec());
        PublicKeys::from([(
            self.server_name.to_string(),
            BTreeMap::from([(self.key_id.to_string(), key)]),
        )])
    }

    /// Signs text as it stands, and returns the signature in unpadded base64.
    pub fn sign_bytes(&self, message: &[u8]) -> String {
        STANDARD_NO_PAD.encode(self.key.sign(message).to_bytes())
    }

    /// Adds this server's signature to an object. `unsigned` and other signatures are kept and not covered.
    ///
    /// Spec: Appendices, Signing JSON.
    pub fn sign_json(&self, object: &mut CanonicalJsonObject) -> Result<(), SignError> {
        Ok(signatures::sign_json(
            self.server_name.as_str(),
            self,
            object,
        )?)
    }

    /// Sets the content hash of an event of this server and signs its redacted form.
    ///
    /// Spec: Server-Server API, Adding hashes and signatures to outgoing events.
    pub fn hash_and_sign_event(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<(), SignError> {
        Ok(signatures::hash_and_sign_event(
            self.server_name.as_str(),
            self,
            event,
            &rules.redaction,
        )?)
    }

    /// Adds this server's signature to an event another server made and hashed.
    pub fn sign_event(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<(), SignError> {
        Ok(signatures::sign_event(
            self.server_name.as_str(),
            self,
            event,
            &rules.redaction,
        )?)
    }
}

impl KeyPair for ServerSigner {
    fn sign(&self, message: &[u8]) -> Signature {
        let key_id = SigningKeyId::from_parts(
            SigningKeyAlgorithm::Ed25519,
            self.key_id.key_name().as_str().into(),
        );
        Signature::new(key_id, self.key.sign(message).to_bytes().to_vec())
    }
}

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
        let event_id = <&EventId>::try_from(event_id).map_err(|error| malformed(error))?;
        let server = event_id
            .server_name()
            .ok_or_else(|| malformed("event_id without a server name"))?;
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
            if keys.is_empty() {
                Err(VerifyError::NoSignature(server.into()))
            } else {
                Ok((server, keys))
            }
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
            Some(CanonicalJsonValue::Object(content))
                if string(event, "type") == Some("m.room.member") =>
            {
                content
            }
            _ => return Self::default(),
        };
        let membership = string(content, "membership");
        Self {
            is_third_party_invite: membership == Some("invite")
                && matches!(
                    content.get("third_party_invite"),
                    Some(CanonicalJsonValue::Object(_))
                ),
            authorised_join: string(content, "join_authorised_via_users_server")
                .filter(|_| membership == Some("join")),
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
    Ok(<&UserId>::try_from(user)
        .map_err(|error| malformed(error))?
        .server_name()
        .to_owned())
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

fn signatures_of<'a>(
    object: &'a CanonicalJsonObject,
    entity: &str,
) -> Option<&'a CanonicalJsonObject> {
    object
        .get("signatures")?
        .as_object()?
        .get(entity)?
        .as_object()
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
        .map_err(|error| malformed(error))?;
    for server in required_signers(event, rules)?.keys() {
        verify_text(server.as_str(), event, keys, text.as_bytes())?;
    }
    let claimed = event
        .get("hashes")
        .and_then(|hashes| string(hashes.as_object()?, "sha256"));
    let claimed = claimed.and_then(|hash| Base64::<Standard>::parse(hash).ok());
    let actual = content_hash(event)?;
    if claimed.is_some_and(|claimed| claimed.as_bytes() == actual.as_bytes()) {
        Ok(Verified::All)
    } else {
        Ok(Verified::Signatures)
    }
}

/// Checks that `entity` signed the object, whoever else did or failed to.
///
/// Spec: Appendices, Checking for a signature.
pub fn verify_json(
    entity: &str,
    keys: &PublicKeys,
    object: &CanonicalJsonObject,
) -> Result<(), VerifyError> {
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
    let algorithm = <&ServerSigningKeyId>::try_from(key_id)
        .map_err(|error| malformed(error))?
        .algorithm();
    let key = keys
        .get(entity)
        .and_then(|keys| keys.get(key_id))
        .ok_or_else(|| VerifyError::NoKey(entity.to_owned()))?;
    let signature = Base64::<Standard>::parse(signature).map_err(|error| malformed(error))?;
    verify_canonical_json_bytes(&algorithm, key.as_bytes(), signature.as_bytes(), message)
        .map_err(|_| VerifyError::WrongSignature(entity.to_owned()))
}

fn verify_text(
    entity: &str,
    object: &CanonicalJsonObject,
    keys: &PublicKeys,
    text: &[u8],
) -> Result<(), VerifyError> {
    let signatures =
        signatures_of(object, entity).ok_or_else(|| VerifyError::NoSignature(entity.to_owned()))?;
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
    use crate::{json::parse_strict, redact::redact_object};

    // The specification prints it with a last `1`, whose stray bits do not survive writing it again.
    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";

    fn signer(server: &str) -> ServerSigner {
        ServerSigner::from_text(server.try_into().unwrap(), &format!("ed25519 1 {SEED}")).unwrap()
    }

    fn object(value: JsonValue) -> CanonicalJsonObject {
        parse_strict(&value.to_string()).unwrap()
    }

    fn signature(object: &CanonicalJsonObject, server: &str) -> String {
        signatures_of(object, server).unwrap()["ed25519:1"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn json_signatures_match_the_specification() {
        for (value, expected) in [
            (
                json!({}),
                "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
            ),
            (
                json!({"one": 1, "two": "Two"}),
                "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
            ),
        ] {
            let mut signed = object(value);
            signer("domain").sign_json(&mut signed).unwrap();
            assert_eq!(signature(&signed, "domain"), expected);
            verify_json("domain", &signer("domain").public_keys(), &signed).unwrap();
        }
    }

    #[test]
    fn event_hashes_and_signatures_match_the_specification() {
        let rules = RoomVersionId::V3.rules().unwrap();
        let minimal = json!({
            "room_id": "!x:domain", "sender": "@a:domain", "origin": "domain", "origin_server_ts": 1_000_000,
            "signatures": {}, "hashes": {}, "type": "X", "content": {}, "prev_events": [], "auth_events": [],
            "depth": 3, "unsigned": {"age_ts": 1_000_000},
        });
        let redactable = json!({
            "content": {"body": "Here is the message content"}, "event_id": "$0:domain", "origin": "domain",
            "origin_server_ts": 1_000_000, "type": "m.room.message", "room_id": "!r:domain",
            "sender": "@u:domain", "signatures": {}, "unsigned": {"age_ts": 1_000_000},
        });
        for (event, hash, expected) in [
            (
                minimal,
                "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
                "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
            ),
            (
                redactable,
                "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
                "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
            ),
        ] {
            let mut event = object(event);
            signer("domain")
                .hash_and_sign_event(&mut event, &rules)
                .unwrap();
            assert_eq!(
                string(event["hashes"].as_object().unwrap(), "sha256"),
                Some(hash)
            );
            assert_eq!(signature(&event, "domain"), expected);
            let keys = signer("domain").public_keys();
            assert_eq!(verify_event(&event, &rules, &keys).unwrap(), Verified::All);
        }
    }

    #[test]
    fn key_text_round_trips_and_hides_from_debug() {
        let key =
            ServerSigner::from_text("x".try_into().unwrap(), &format!("ed25519 a_bcde {SEED}\n"))
                .unwrap();
        assert_eq!(key.key_id().as_str(), "ed25519:a_bcde");
        assert_eq!(key.to_text(), format!("ed25519 a_bcde {SEED}\n"));
        assert_eq!(
            key.verify_key_base64(),
            "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI"
        );
        assert!(!format!("{key:?}").contains(SEED));
        let stray = ServerSigner::from_text(
            "x".try_into().unwrap(),
            "ed25519 a YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1=",
        );
        assert_eq!(stray.unwrap().verify_key_base64(), key.verify_key_base64());
        for text in [
            "",
            "ed25519 a",
            "rsa a YQ",
            "ed25519 a_b YQ",
            "ed25519 a-b !",
            "ed25519 a b c",
        ] {
            assert!(
                ServerSigner::from_text("x".try_into().unwrap(), text).is_err(),
                "{text}"
            );
        }
        assert!(ServerSigner::from_seed("x".try_into().unwrap(), "a:b", &[0; 32]).is_err());
    }

    #[test]
    fn generated_keys_differ_and_can_be_read_back() {
        let generate =
            || ServerSigner::generate("x".try_into().unwrap(), &mut rand::rngs::SysRng).unwrap();
        let (one, two) = (generate(), generate());
        assert_ne!(one.verify_key_base64(), two.verify_key_base64());
        let read = ServerSigner::from_text("x".try_into().unwrap(), &one.to_text()).unwrap();
        assert_eq!(read.verify_key_base64(), one.verify_key_base64());
        assert_eq!(read.key_id(), one.key_id());
    }

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
        event.insert(
            "content".to_owned(),
            CanonicalJsonValue::Object(object(json!({"body": "forged"}))),
        );
        let keys = signer("a").public_keys();
        assert_eq!(
            verify_event(&event, &rules, &keys).unwrap(),
            Verified::Signatures
        );
        let redacted = redact_object(event.clone(), &rules).unwrap();
        assert_eq!(
            verify_event(&redacted, &rules, &keys).unwrap(),
            Verified::Signatures
        );
        event.insert("sender".to_owned(), "@v:a".to_owned().into());
        assert!(matches!(
            verify_event(&event, &rules, &keys),
            Err(VerifyError::WrongSignature(_))
        ));
    }

    #[test]
    fn every_failure_of_a_signature_is_told_apart() {
        let rules = RoomVersionId::V10.rules().unwrap();
        let mut event = object(message("@u:a"));
        assert!(
            matches!(required_signers(&event, &rules), Err(VerifyError::NoSignature(server)) if server == "a")
        );
        signer("b").hash_and_sign_event(&mut event, &rules).unwrap();
        assert!(matches!(
            verify_event(&event, &rules, &PublicKeys::new()),
            Err(VerifyError::NoSignature(_))
        ));
        signer("a").sign_event(&mut event, &rules).unwrap();
        assert!(matches!(
            verify_event(&event, &rules, &PublicKeys::new()),
            Err(VerifyError::NoKey(_))
        ));
        // The signature of a server nobody asked about does not matter.
        assert!(verify_event(&event, &rules, &signer("a").public_keys()).is_ok());
        let sender = object(json!({"content": {}, "type": "m.x"}));
        assert!(matches!(
            required_signers(&sender, &rules),
            Err(VerifyError::Malformed(_))
        ));
    }

    #[test]
    fn authorising_server_signs_joins_and_nothing_else() {
        let signers = |kind: &str, membership: &str, version: RoomVersionId| {
            let mut event = message("@u:a");
            event["type"] = kind.into();
            event["content"] =
                json!({"membership": membership, "join_authorised_via_users_server": "@v:b"});
            event["signatures"] =
                json!({"a": {"ed25519:1": "s"}, "b": {"ed25519:1": "s", "rsa:1": "s"}});
            let signers = required_signers(&object(event), &version.rules().unwrap()).unwrap();
            signers
                .keys()
                .map(|server| server.to_string())
                .collect::<Vec<_>>()
                .join(" ")
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
        assert!(
            required_signers(&object(event.clone()), &RoomVersionId::V10.rules().unwrap())
                .unwrap()
                .is_empty()
        );
        event["content"]["membership"] = "join".into();
        assert!(required_signers(&object(event), &RoomVersionId::V10.rules().unwrap()).is_err());
    }

    #[test]
    fn server_in_the_event_id_signs_in_version_2() {
        let mut event = message("@u:a");
        event["event_id"] = "$e:b".into();
        event["signatures"] = json!({"a": {"ed25519:1": "s"}, "b": {"ed25519:1": "s"}});
        let signers = |version: RoomVersionId| {
            required_signers(&object(event.clone()), &version.rules().unwrap())
                .unwrap()
                .len()
        };
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
        let signatures = signed
            .get_mut("signatures")
            .unwrap()
            .as_object_mut()
            .unwrap();
        signatures.insert(
            "b".to_owned(),
            CanonicalJsonValue::String("nonsense".to_owned()),
        );
        let entry = signatures.get_mut("a").unwrap().as_object_mut().unwrap();
        entry.insert(
            "ed25519:lost".to_owned(),
            CanonicalJsonValue::String("nonsense".to_owned()),
        );
        entry.insert("dilithium:1".to_owned(), CanonicalJsonValue::Null);
        verify_json("a", &signer("a").public_keys(), &signed).unwrap();
        assert!(matches!(
            verify_json("b", &signer("a").public_keys(), &signed),
            Err(VerifyError::NoSignature(_))
        ));
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
