//! A secret from the configuration: kept out of logs and dumps, compared in constant time.

use sha2::{Digest, Sha256};

#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for a computation that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `guess` is the secret. Hashes are compared, so that the time taken tells nothing of where they differ.
    pub fn matches(&self, guess: &str) -> bool {
        Sha256::digest(self.0.as_bytes()) == Sha256::digest(guess.as_bytes())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
