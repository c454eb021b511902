//! Reads the registration files of application services (application service API, "Registration"), in the form that bridges write
//! for Synapse as well. Every mistake is named with its file; keys that are not known are passed over, as bridges add their own.

use std::{
    io,
    path::{Path, PathBuf},
};

use chappe_protocol::glob::Glob;
use chappe_services::app_services::{
    NamespaceDraft, Registration, RegistrationDraft, RegistrationError, Registrations,
};
use ruma::ServerName;
use serde::Deserialize;

/// The largest registration file read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Registrations with which the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ReadRegistrationsError {
    #[error("{}: the registration file cannot be read: {error}", .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: the registration file is larger than {FILE_BYTES_MAX} bytes", .path.display())]
    TooLarge { path: PathBuf },
    #[error("{}: not a registration: {cause}", .path.display())]
    Syntax { path: PathBuf, cause: String },
    #[error("{}: {error}", .path.display())]
    Invalid { path: PathBuf, error: RegistrationError },
    #[error("application services: {0}")]
    Together(RegistrationError),
}

#[derive(Deserialize)]
struct RegistrationFile {
    id: String,
    url: Option<String>,
    as_token: String,
    hs_token: String,
    sender_localpart: String,
    #[serde(default)]
    namespaces: NamespacesFile,
    /// Left out, it is true.
    rate_limited: Option<bool>,
    #[serde(default)]
    protocols: Option<Vec<String>>,
    receive_ephemeral: Option<bool>,
    #[serde(rename = "de.sorunome.msc2409.push_ephemeral")]
    push_ephemeral_unstable: Option<bool>,
    push_ephemeral: Option<bool>,
    #[serde(rename = "org.matrix.msc3202")]
    device_changes: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamespacesFile {
    users: Option<Vec<NamespaceFile>>,
    aliases: Option<Vec<NamespaceFile>>,
    rooms: Option<Vec<NamespaceFile>>,
}

#[derive(Deserialize)]
struct NamespaceFile {
    #[serde(default)]
    exclusive: bool,
    regex: String,
}

impl RegistrationFile {
    fn into_draft(self) -> RegistrationDraft {
        let namespaces = |namespaces: Option<Vec<NamespaceFile>>| {
            let drafts = namespaces.unwrap_or_default().into_iter();
            drafts.map(|NamespaceFile { exclusive, regex }| NamespaceDraft { exclusive, regex }).collect()
        };
        let has_old_name = self.push_ephemeral.unwrap_or_default() || self.push_ephemeral_unstable.unwrap_or_default();
        RegistrationDraft {
            id: self.id,
            url: self.url,
            as_token: self.as_token,
            hs_token: self.hs_token,
            sender_localpart: self.sender_localpart,
            users: namespaces(self.namespaces.users),
            aliases: namespaces(self.namespaces.aliases),
            rooms: namespaces(self.namespaces.rooms),
            rate_limited: self.rate_limited.unwrap_or(true),
            protocols: self.protocols.unwrap_or_default(),
            receive_ephemeral: has_old_name || self.receive_ephemeral.unwrap_or_default(),
            legacy_ephemeral_names: has_old_name,
            device_changes: self.device_changes.unwrap_or_default(),
        }
    }
}

/// Reads the registrations that these paths name.
pub fn read(server_name: &ServerName, paths: &[PathBuf]) -> Result<Registrations, ReadRegistrationsError> {
    let mut registrations = Vec::new();
    for path in paths {
        for file in expand(path)? {
            registrations.push(read_file(server_name, &file)?);
        }
    }
    Registrations::new(registrations).map_err(ReadRegistrationsError::Together)
}

/// The files that a path stands for, in order of their names.
fn expand(path: &Path) -> Result<Vec<PathBuf>, ReadRegistrationsError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (dir, pattern) = if path.is_dir() {
        (path, None)
    } else if name.contains('*') {
        (path.parent().unwrap_or(Path::new(".")), Some(Glob::new(&name)))
    } else {
        return Ok(vec![path.to_owned()]);
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        // A pattern may match nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ReadRegistrationsError::Unreadable { path: dir.to_owned(), error }),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| ReadRegistrationsError::Unreadable { path: dir.to_owned(), error })?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_wanted = match &pattern {
            Some(pattern) => pattern.matches(&name),
            None => name.ends_with(".yaml") || name.ends_with(".yml"),
        };
        if is_wanted && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(server_name: &ServerName, path: &Path) -> Result<Registration, ReadRegistrationsError> {
    let unreadable = |error| ReadRegistrationsError::Unreadable { path: path.to_owned(), error };
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(ReadRegistrationsError::TooLarge { path: path.to_owned() });
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let file: RegistrationFile = serde_saphyr::from_str(&text)
        .map_err(|error| ReadRegistrationsError::Syntax { path: path.to_owned(), cause: error.to_string() })?;
    Registration::new(server_name, file.into_draft())
        .map_err(|error| ReadRegistrationsError::Invalid { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;

    const REGISTRATION: &str = r##"
id: "irc"
url: "http://127.0.0.1:1234"
as_token: from-the-service
hs_token: to-the-service
sender_localpart: "_irc_bot" # the bot
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_.*"
  aliases: []
rate_limited: false
protocols: ["irc"]
org.example.unknown: { more: 1 }
"##;

    fn read_texts(texts: &[(&str, &str)], path: &str) -> Result<Registrations, ReadRegistrationsError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in texts {
            std::fs::write(dir.path().join(name), text).expect("writing a file");
        }
        read(server_name!("a.example"), &[dir.path().join(path)])
    }

    #[test]
    fn files_are_found_by_name_by_pattern_and_by_directory() {
        for path in ["irc.yaml", "*.yaml", ""] {
            let found = read_texts(&[("irc.yaml", REGISTRATION), ("README", "not one")], path).expect("readable");
            let service = found.get_by_token("from-the-service").expect("registered");
            assert_eq!(service.sender, "@_irc_bot:a.example");
            assert!(service.covers_user(user_id!("@_irc_alice:a.example")));
            assert!(!service.covers_user(user_id!("@_irc_alice:b.example")));
            assert!(!service.rate_limited && !service.receive_ephemeral);
        }
        assert!(read_texts(&[], "nothing/*.yaml").expect("a pattern may match nothing").is_empty());
    }

    #[test]
    fn mistakes_are_named_with_their_file() {
        let message = |result: Result<Registrations, ReadRegistrationsError>| match result {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it was accepted"),
        };
        let missing = message(read_texts(&[], "irc.yaml"));
        assert!(missing.contains("irc.yaml") && missing.contains("cannot be read"), "{missing}");
        let broken = message(read_texts(&[("a.yaml", "id: [")], "a.yaml"));
        assert!(broken.contains("a.yaml: not a registration"), "{broken}");
        let regex = message(read_texts(&[("a.yaml", &REGISTRATION.replace("@_irc_.*", "@_irc_("))], "a.yaml"));
        assert!(regex.contains("a.yaml") && regex.contains("not a regular expression"), "{regex}");
        let url = message(read_texts(&[("a.yaml", &REGISTRATION.replace("http:", "ftp:"))], "a.yaml"));
        assert!(url.contains("url"), "{url}");
        let twice = message(read_texts(&[("a.yaml", REGISTRATION), ("b.yaml", REGISTRATION)], ""));
        assert!(twice.contains("\"irc\""), "{twice}");
    }
}
