//! The key this server signs events and requests with, kept in two files of the data directory.
//!
//! `signing.key` holds the secret, in the form Synapse uses, so that a key can be brought along. `old_signing_keys`
//! holds the public halves of earlier keys, one a line: `ed25519 <version> <public key> <expired, ms since 1970>`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use chappe_protocol::{
    clock::Clock,
    sign::{KeyError, ServerSigner},
};
use ruma::{OwnedServerName, OwnedServerSigningKeyId};

use crate::data_dir::{DataDir, write_durably};

#[derive(Debug, thiserror::Error)]
pub enum SigningKeyError {
    #[error("{}: {error}", .path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("{}: {error}", .path.display())]
    Key { path: PathBuf, error: KeyError },
    #[error("{}: line {line}: found something else than `ed25519 <version> <public key> <expired, ms since 1970>`", .path.display())]
    OldKey { path: PathBuf, line: usize },
    #[error(
        "{}: the signing key is missing, although there is data. Put it back from the backup, or make a new one with \
         `chappe signing-key generate`",
        .0.display()
    )]
    Missing(PathBuf),
}

/// A key that is no longer signed with, but that others may need to verify what was.
#[derive(Clone, Debug, PartialEq)]
pub struct OldKey {
    pub key_id: OwnedServerSigningKeyId,
    /// Unpadded base64.
    pub public_key: String,
    pub expired_at_ms: u64,
}

fn key_path(data_dir: &DataDir) -> PathBuf {
    data_dir.path().join("signing.key")
}

fn old_keys_path(data_dir: &DataDir) -> PathBuf {
    data_dir.path().join("old_signing_keys")
}

/// Reads the key; makes one when the data directory is new.
pub fn load_or_generate(data_dir: &DataDir, server_name: OwnedServerName) -> Result<ServerSigner, SigningKeyError> {
    let path = key_path(data_dir);
    match load(data_dir, server_name.clone())? {
        Some(signer) => Ok(signer),
        None if data_dir.has_database() => Err(SigningKeyError::Missing(path)),
        None => generate(data_dir, server_name),
    }
}

/// Reads the key, if there is one.
pub fn load(data_dir: &DataDir, server_name: OwnedServerName) -> Result<Option<ServerSigner>, SigningKeyError> {
    let path = key_path(data_dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(SigningKeyError::File { path, error }),
    };
    match ServerSigner::from_text(server_name, text.trim()) {
        Ok(signer) => Ok(Some(signer)),
        Err(error) => Err(SigningKeyError::Key { path, error }),
    }
}

fn generate(data_dir: &DataDir, server_name: OwnedServerName) -> Result<ServerSigner, SigningKeyError> {
    let path = key_path(data_dir);
    let signer = ServerSigner::generate(server_name, &mut rand::rngs::SysRng)
        .map_err(|error| SigningKeyError::Key { path: path.clone(), error })?;
    write(&path, &signer.to_text(), 0o600)?;
    Ok(signer)
}

/// Makes a new key, and keeps the public half of the one it replaces.
pub fn rotate(
    data_dir: &DataDir,
    server_name: OwnedServerName,
    clock: &dyn Clock,
) -> Result<ServerSigner, SigningKeyError> {
    if let Some(current) = load(data_dir, server_name.clone())? {
        let mut old = load_old(data_dir)?;
        let key_id = current.key_id().to_owned();
        // The old half first: killed in between, the current key is merely listed as old too soon.
        old.retain(|key| key.key_id != key_id);
        old.push(OldKey { key_id, public_key: current.verify_key_base64(), expired_at_ms: clock.now_ms() });
        let lines: String = old.iter().map(line).collect();
        write(&old_keys_path(data_dir), &lines, 0o644)?;
    }
    generate(data_dir, server_name)
}

fn line(key: &OldKey) -> String {
    format!("ed25519 {} {} {}\n", key.key_id.key_name(), key.public_key, key.expired_at_ms)
}

/// The keys of earlier times, oldest first.
pub fn load_old(data_dir: &DataDir) -> Result<Vec<OldKey>, SigningKeyError> {
    let path = old_keys_path(data_dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(SigningKeyError::File { path, error }),
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            parse_old(line).ok_or_else(|| SigningKeyError::OldKey { path: path.clone(), line: index + 1 })
        })
        .collect()
}

fn parse_old(line: &str) -> Option<OldKey> {
    let mut words = line.split_whitespace();
    let (Some("ed25519"), version, public_key, expired, None) =
        (words.next(), words.next()?, words.next()?, words.next()?, words.next())
    else {
        return None;
    };
    Some(OldKey {
        key_id: format!("ed25519:{version}").as_str().try_into().ok()?,
        public_key: public_key.to_owned(),
        expired_at_ms: expired.parse().ok()?,
    })
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), SigningKeyError> {
    write_durably(path, text, mode).map_err(|error| SigningKeyError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use ruma::{owned_server_name, server_name};

    use super::*;

    #[test]
    fn the_key_made_on_the_first_start_is_the_one_of_the_second() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = DataDir::open(dir.path(), server_name!("a.example")).expect("opened");
        let first = load_or_generate(&data_dir, owned_server_name!("a.example")).expect("made");
        let second = load_or_generate(&data_dir, owned_server_name!("a.example")).expect("read");
        assert_eq!(first.verify_key_base64(), second.verify_key_base64());
    }

    #[test]
    fn a_missing_key_is_not_replaced_silently_once_there_is_data() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = DataDir::open(dir.path(), server_name!("a.example")).expect("opened");
        fs::create_dir(data_dir.database()).expect("made");
        let refused = load_or_generate(&data_dir, owned_server_name!("a.example"));
        assert!(matches!(refused, Err(SigningKeyError::Missing(_))));
    }

    #[test]
    fn a_rotated_key_stays_verifiable() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = DataDir::open(dir.path(), server_name!("a.example")).expect("opened");
        let first = load_or_generate(&data_dir, owned_server_name!("a.example")).expect("made");
        let second = rotate(&data_dir, owned_server_name!("a.example"), &ManualClock::new(1234)).expect("rotated");
        assert_ne!(first.verify_key_base64(), second.verify_key_base64());
        let old = load_old(&data_dir).expect("readable");
        let expected =
            OldKey { key_id: first.key_id().to_owned(), public_key: first.verify_key_base64(), expired_at_ms: 1234 };
        assert_eq!(old, [expected]);
    }
}
