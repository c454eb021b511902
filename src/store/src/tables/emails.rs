//! Email addresses of local users, and the proofs of them that are under way. Written and read by the services' `emails` module; an
//! account that is deactivated loses its rows.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use crate::{record, table::Table};

/// An address that belongs to an account.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EmailRecord {
    /// When its owner proved to read it: milliseconds since the Unix epoch.
    pub validated_ms: u64,
    /// When it was added to the account.
    pub added_ms: u64,
}
record!(EmailRecord, 1);

/// User, address in small letters -> when it was added.
pub const USER_EMAILS: Table<(OwnedUserId, String), EmailRecord> = Table::new(195, "user_emails");

/// Address in small letters -> whose it is: the same rows from the address's side.
pub const EMAIL_USERS: Table<String, OwnedUserId> = Table::new(196, "email_users");

/// Somebody proves to read an address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EmailSessionRecord {
    pub address: String,
    /// SHA-256 of the client's secret.
    pub client_secret: [u8; 32],
    /// SHA-256 of the token that was mailed; `None`: nothing that could validate the session was.
    pub token: Option<[u8; 32]>,
    /// The client's count of its requests for a mail.
    pub send_attempt: u64,
    /// Where the user's browser is sent in the end.
    pub next_link: Option<String>,
    pub expires_ms: u64,
    pub validated_ms: Option<u64>,
}
record!(EmailSessionRecord, 1);

/// Session id -> the session. Deleted some time after it expired.
pub const EMAIL_SESSIONS: Table<String, EmailSessionRecord> = Table::new(197, "email_sessions");
