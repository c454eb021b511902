//! `[login]`: how long logins last, and when failed ones lock out.

use serde::{Deserialize, Serialize};

use super::Refusals;

/// Lifetimes and lock-outs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoginSection {
    /// How long an access token is good for whose client can refresh it.
    pub access_token_lifetime_seconds: u64,
    /// Whether failed logins in a row lock out.
    pub lockout: bool,
    /// Failures after which an account is locked.
    pub lockout_account_failures: u32,
    /// Failures after which an address is locked.
    pub lockout_address_failures: u32,
    /// The longest lock-out.
    pub lockout_longest_seconds: u64,
}

impl Default for LoginSection {
    fn default() -> Self {
        Self {
            access_token_lifetime_seconds: 3600,
            lockout: true,
            lockout_account_failures: 10,
            lockout_address_failures: 100,
            lockout_longest_seconds: 900,
        }
    }
}

impl LoginSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        if self.access_token_lifetime_seconds < 60 {
            let found = self.access_token_lifetime_seconds.to_string();
            refusals.add("login.access_token_lifetime_seconds", found, "a number of seconds from 60");
        }
        for (key, failures) in [
            ("login.lockout_account_failures", self.lockout_account_failures),
            ("login.lockout_address_failures", self.lockout_address_failures),
        ] {
            if failures == 0 {
                refusals.add(key, "0", "a number of failures from 1 (login.lockout = false turns lock-outs off)");
            }
        }
        if self.lockout_longest_seconds == 0 {
            refusals.add("login.lockout_longest_seconds", "0", "a number of seconds from 1");
        }
    }
}
