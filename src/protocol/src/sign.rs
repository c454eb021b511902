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
        let seed = STANDARD_NO_PAD
            .decode(seed.trim_end_matches('='))
            .map_err(|_| KeyError::Malformed)?;
        let seed = <[u8; 32]>::try_from(seed.as_slice()).map_err(|_| KeyError::Malformed)?;
        Self::from_seed(server_name, version, &seed)
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
