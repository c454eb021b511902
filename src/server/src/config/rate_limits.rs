//! `[rate_limits]`: how often one user, address or server may do something.
//!
//! Each limit is a bucket: `burst` actions at once, refilled at `per_second`. The starting values are those
//! that Synapse's operators have lived with.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::Refusals;

/// A bucket of `burst` actions that fills up at `per_second`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub per_second: f64,
    pub burst: u32,
}

const fn rate(per_second: f64, burst: u32) -> Rate {
    Rate { per_second, burst }
}

/// Declares the section: each limit once, with its default and what it counts.
macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident = ($per_second:expr, $burst:expr);)*) => {
        /// Whether limits apply, and each limit.
        #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct RateLimitsSection {
            pub enabled: bool,
            /// Whether administrators are never limited.
            pub exempt_admins: bool,
            /// Users who are never limited.
            pub exempt_users: Vec<OwnedUserId>,
            $($(#[$doc])* pub $name: Rate,)*
        }

        impl Default for RateLimitsSection {
            fn default() -> Self {
                Self { enabled: true, exempt_admins: true, exempt_users: Vec::new(), $($name: rate($per_second, $burst),)* }
            }
        }

        impl RateLimitsSection {
            /// Every limit with its key.
            fn all(&self) -> Vec<(&'static str, Rate)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

limits! {
    /// Events a user sends.
    message = (0.2, 10);
    /// Registrations, and questions whether a name is free, from an address.
    registration = (0.17, 3);
    /// Questions whether a registration token is valid, from an address.
    registration_token_validity = (0.1, 5);
    /// Logins from an address.
    login_address = (0.003, 5);
    /// Logins to an account.
    login_account = (0.003, 5);
    /// Joins of a user to rooms this server is in.
    join_local = (0.1, 10);
    /// Joins of a user to rooms this server is not in yet.
    join_remote = (0.01, 10);
    /// Invites a user sends.
    invite = (0.3, 10);
    /// Rooms a user creates.
    create_room = (0.016, 10);
    /// Proofs of identity a user gives again, such as a password for a sensitive change.
    authentication = (0.1, 10);
    /// Delayed events cancelled, restarted or sent at once, from an address.
    delayed_event = (1.0, 5);
    /// Mails asked for to prove an email address, from an address of a client and to an email address.
    email_token = (0.003, 5);
    /// What a user reads that is quickly found.
    read = (20.0, 300);
    /// What a user changes, where there is no limit of its own for it.
    write = (10.0, 100);
    /// What a user reads that has to be searched, computed or asked of other servers.
    costly = (5.0, 100);
    /// Uploads and downloads of a user.
    media = (20.0, 300);
}

impl RateLimitsSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        for (name, rate) in self.all() {
            if !rate.per_second.is_finite() || rate.per_second <= 0.0 {
                refusals.add(format!("rate_limits.{name}.per_second"), rate.per_second.to_string(), "a number above 0");
            }
            if rate.burst == 0 {
                refusals.add(format!("rate_limits.{name}.burst"), "0", "a whole number from 1");
            }
        }
    }
}
