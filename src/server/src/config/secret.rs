//! A configured secret. It is never printed: not by `Debug`, not when the configuration is dumped.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize, Serializer};

use super::Refusals;

/// A text that only [`Secret::expose`] shows.
#[derive(Clone, Deserialize, PartialEq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself, for the one place that compares or hashes it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"***\"")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A secret from the file that holds it; what is wrong with that is refused under `key`.
pub(super) fn read_file(refusals: &mut Refusals, key: &str, path: Option<&Path>) -> Option<Secret> {
    let path = path?;
    let allowed = "the path of a readable file with the secret in it";
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => {
            refusals.add(key, format!("{} with nothing in it", path.display()), allowed);
            None
        }
        Ok(text) => Some(Secret::new(text.trim().to_owned())),
        Err(error) => {
            refusals.add(key, format!("{} ({error})", path.display()), allowed);
            None
        }
    }
}
