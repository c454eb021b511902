//! `[registration]`: who may make an account.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Refusals, Secret, secret};

/// How accounts come into being.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrationSection {
    pub mode: RegistrationMode,
    /// What a user must know to register in mode "token".
    pub token: Option<Secret>,
    /// A file that holds the token, in place of `token`.
    pub token_file: Option<PathBuf>,
    /// Allows registration by tools that know this secret, in every mode (`/_synapse/admin/v1/register`).
    pub shared_secret: Option<Secret>,
    /// A file that holds the secret, in place of `shared_secret`.
    pub shared_secret_file: Option<PathBuf>,
    /// Whether whoever registers must prove to read an email address.
    pub require_email: bool,
    /// Whether a client gets a guest account without asking anybody.
    pub allow_guests: bool,
}

/// Who may register through a client.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationMode {
    #[default]
    Closed,
    Token,
    Open,
}

impl RegistrationSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        let has_token = self.token.is_some() || self.token_file.is_some();
        if self.mode == RegistrationMode::Token && !has_token {
            refusals.add(
                "registration.token",
                "nothing",
                "a text, or registration.token_file, as registration.mode is \"token\"",
            );
        }
        if self.token.is_some() && self.token_file.is_some() {
            refusals.add("registration.token_file", "a path, beside registration.token", "one of the two");
        }
        if self.shared_secret.is_some() && self.shared_secret_file.is_some() {
            refusals.add(
                "registration.shared_secret_file",
                "a path, beside registration.shared_secret",
                "one of the two",
            );
        }
        for (key, secret) in [("registration.token", &self.token), ("registration.shared_secret", &self.shared_secret)]
        {
            if secret.as_ref().is_some_and(|secret| secret.expose().is_empty()) {
                refusals.add(key, "an empty text", "a text that is not empty");
            }
        }
    }

    /// Fills `token` and `shared_secret` from their files. Returns what cannot be read, as (key, found, allowed).
    pub(super) fn read_secret_files(&mut self) -> Vec<(String, String, String)> {
        let mut refusals = Refusals::default();
        let token = secret::read_file(&mut refusals, "registration.token_file", self.token_file.as_deref());
        let shared_secret =
            secret::read_file(&mut refusals, "registration.shared_secret_file", self.shared_secret_file.as_deref());
        self.token = self.token.take().or(token);
        self.shared_secret = self.shared_secret.take().or(shared_secret);
        refusals.0
    }
}
