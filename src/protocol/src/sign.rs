//! Signing what this server says: JSON objects, events, and plain text.
//!
//! Keeping the key in a file, rotating it and publishing it are others' work. Checking signatures is in
//! [`crate::verify`], whose names are also found here.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use rand::TryCryptoRng;
use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId, SigningKeyAlgorithm,
    SigningKeyId,
    room_version_rules::RoomVersionRules,
    serde::{Base64, base64::Standard},
    signatures::{self, KeyPair, Signature},
};

pub use crate::verify::{
    MAX_KEY_VALIDITY_MS, PublicKeys, Verified, VerifyError, key_valid_for_event, required_signers, verify_bytes,
    verify_event, verify_json,
};

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
    pub fn from_seed(server_name: OwnedServerName, version: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        if version.is_empty() || !version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(KeyError::Version);
        }
        let key_id = format!("ed25519:{version}").as_str().try_into().map_err(|_| KeyError::Version)?;
        Ok(Self { server_name, key_id, key: SigningKey::from_bytes(seed) })
    }

    /// A fresh key with a random version, from the given source of randomness.
    pub fn generate<R: TryCryptoRng + ?Sized>(server_name: OwnedServerName, rng: &mut R) -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        rng.try_fill_bytes(&mut seed).map_err(|error| KeyError::Randomness(error.to_string()))?;
        let mut version = [0; 4];
        rng.try_fill_bytes(&mut version).map_err(|error| KeyError::Randomness(error.to_string()))?;
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
        format!("ed25519 {} {}\n", self.key_id.key_name(), STANDARD_NO_PAD.encode(self.key.to_bytes()))
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
        PublicKeys::from([(self.server_name.to_string(), BTreeMap::from([(self.key_id.to_string(), key)]))])
    }

    /// Signs text as it stands, and returns the signature in unpadded base64.
    pub fn sign_bytes(&self, message: &[u8]) -> String {
        STANDARD_NO_PAD.encode(self.key.sign(message).to_bytes())
    }

    /// Adds this server's signature to an object. `unsigned` and other signatures are kept and not covered.
    ///
    /// Spec: Appendices, Signing JSON.
    pub fn sign_json(&self, object: &mut CanonicalJsonObject) -> Result<(), SignError> {
        Ok(signatures::sign_json(self.server_name.as_str(), self, object)?)
    }

    /// Sets the content hash of an event of this server and signs its redacted form.
    ///
    /// Spec: Server-Server API, Adding hashes and signatures to outgoing events.
    pub fn hash_and_sign_event(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<(), SignError> {
        Ok(signatures::hash_and_sign_event(self.server_name.as_str(), self, event, &rules.redaction)?)
    }

    /// Adds this server's signature to an event another server made and hashed.
    pub fn sign_event(&self, event: &mut CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), SignError> {
        Ok(signatures::sign_event(self.server_name.as_str(), self, event, &rules.redaction)?)
    }
}

impl KeyPair for ServerSigner {
    fn sign(&self, message: &[u8]) -> Signature {
        let key_id = SigningKeyId::from_parts(SigningKeyAlgorithm::Ed25519, self.key_id.key_name().as_str().into());
        Signature::new(key_id, self.key.sign(message).to_bytes().to_vec())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ruma::RoomVersionId;
    use serde_json::{Value as JsonValue, json};

    use super::*;
    use crate::{json::parse_strict, verify::signatures_of};

    // The specification prints it with a last `1`, whose stray bits do not survive writing it again.
    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";

    pub(crate) fn signer(server: &str) -> ServerSigner {
        ServerSigner::from_text(server.try_into().unwrap(), &format!("ed25519 1 {SEED}")).unwrap()
    }

    pub(crate) fn object(value: JsonValue) -> CanonicalJsonObject {
        parse_strict(&value.to_string()).unwrap()
    }

    fn signature(object: &CanonicalJsonObject, server: &str) -> String {
        signatures_of(object, server).unwrap()["ed25519:1"].as_str().unwrap().to_owned()
    }

    #[test]
    fn json_signatures_match_the_specification() {
        for (value, expected) in [
            (json!({}), "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
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
            signer("domain").hash_and_sign_event(&mut event, &rules).unwrap();
            assert_eq!(event["hashes"].as_object().unwrap()["sha256"].as_str(), Some(hash));
            assert_eq!(signature(&event, "domain"), expected);
            let keys = signer("domain").public_keys();
            assert_eq!(verify_event(&event, &rules, &keys).unwrap(), Verified::All);
        }
    }

    #[test]
    fn key_text_round_trips_and_hides_from_debug() {
        let key = ServerSigner::from_text("x".try_into().unwrap(), &format!("ed25519 a_bcde {SEED}\n")).unwrap();
        assert_eq!(key.key_id().as_str(), "ed25519:a_bcde");
        assert_eq!(key.to_text(), format!("ed25519 a_bcde {SEED}\n"));
        assert_eq!(key.verify_key_base64(), "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI");
        assert!(!format!("{key:?}").contains(SEED));
        let stray =
            ServerSigner::from_text("x".try_into().unwrap(), "ed25519 a YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1=");
        assert_eq!(stray.unwrap().verify_key_base64(), key.verify_key_base64());
        for text in ["", "ed25519 a", "rsa a YQ", "ed25519 a_b YQ", "ed25519 a-b !", "ed25519 a b c"] {
            assert!(ServerSigner::from_text("x".try_into().unwrap(), text).is_err(), "{text}");
        }
        assert!(ServerSigner::from_seed("x".try_into().unwrap(), "a:b", &[0; 32]).is_err());
    }

    #[test]
    fn generated_keys_differ_and_can_be_read_back() {
        let generate = || ServerSigner::generate("x".try_into().unwrap(), &mut rand::rngs::SysRng).unwrap();
        let (one, two) = (generate(), generate());
        assert_ne!(one.verify_key_base64(), two.verify_key_base64());
        let read = ServerSigner::from_text("x".try_into().unwrap(), &one.to_text()).unwrap();
        assert_eq!(read.verify_key_base64(), one.verify_key_base64());
        assert_eq!(read.key_id(), one.key_id());
    }
}
