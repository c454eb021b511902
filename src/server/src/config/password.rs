//! `[password]`: what new passwords must be like.

use serde::{Deserialize, Serialize};

use super::Refusals;

/// Longest password that any policy may ask for, in characters.
const LENGTH_MAX: usize = 128;

/// What is asked of passwords that users choose.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PasswordSection {
    pub minimum_length: usize,
    pub require_digit: bool,
    pub require_symbol: bool,
    pub require_lowercase: bool,
    pub require_uppercase: bool,
}

impl Default for PasswordSection {
    fn default() -> Self {
        Self {
            minimum_length: 8,
            require_digit: false,
            require_symbol: false,
            require_lowercase: false,
            require_uppercase: false,
        }
    }
}

impl PasswordSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        if self.minimum_length > LENGTH_MAX {
            let found = self.minimum_length.to_string();
            refusals.add("password.minimum_length", found, format!("a number of characters up to {LENGTH_MAX}"));
        }
    }
}
