//! `[turn]`: the TURN servers that carry calls where no direct way is open.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Refusals, Secret, secret};

/// Where the TURN servers are, and how clients log in there.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TurnSection {
    pub uris: Vec<String>,
    /// Shared with the TURN servers (coturn's `static-auth-secret`): each user gets credentials of their own.
    pub secret: Option<Secret>,
    pub secret_file: Option<PathBuf>,
    /// The same credentials for everybody, in place of a secret.
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub lifetime_seconds: u64,
    pub allow_guests: bool,
}

impl Default for TurnSection {
    fn default() -> Self {
        Self {
            uris: Vec::new(),
            secret: None,
            secret_file: None,
            username: None,
            password: None,
            lifetime_seconds: 86_400,
            allow_guests: false,
        }
    }
}

impl TurnSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        for uri in &self.uris {
            if !["turn:", "turns:", "stun:", "stuns:"].iter().any(|scheme| uri.starts_with(scheme)) {
                refusals.add("turn.uris", format!("\"{uri}\""), "URIs such as turn:turn.agence.example?transport=udp");
            }
        }
        let has_secret = self.secret.is_some() || self.secret_file.is_some();
        if self.secret.is_some() && self.secret_file.is_some() {
            refusals.add("turn.secret", "given twice", "turn.secret or turn.secret_file, not both");
        }
        if self.username.is_some() != self.password.is_some() {
            refusals.add("turn.username", "one without the other", "turn.username and turn.password together");
        }
        if !self.uris.is_empty() && !has_secret && self.username.is_none() {
            refusals.add("turn.uris", "URIs without credentials", "turn.secret, or turn.username and turn.password");
        }
        if self.lifetime_seconds < 60 {
            refusals.add("turn.lifetime_seconds", self.lifetime_seconds.to_string(), "a number of seconds from 60");
        }
    }

    /// Fills `secret` from its file. Returns what cannot be read, as (key, found, allowed).
    pub(super) fn read_secret_files(&mut self) -> Vec<(String, String, String)> {
        let mut refusals = Refusals::default();
        let read = secret::read_file(&mut refusals, "turn.secret_file", self.secret_file.as_deref());
        self.secret = self.secret.take().or(read);
        refusals.0
    }
}
