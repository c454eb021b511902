//! Local accounts, their devices, tokens, profiles and filters. Written by the services' account modules only.
//!
//! Tokens are never stored: the key is the SHA-256 of the token's text.

use ruma::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    record,
    record::{Json, Stamped},
    table::Table,
};

/// SHA-256 of a token's text.
pub type TokenHash = [u8; 32];

/// What kind of account it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AccountKind {
    User,
    Guest,
}

/// A local account. Never deleted: a deactivated user id is not given out again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccountRecord {
    pub kind: AccountKind,
    /// May use the administration API.
    pub admin: bool,
    pub created_at_ms: u64,
    /// argon2id, as a PHC string. `None`: no password opens this account.
    pub password_hash: Option<String>,
    pub deactivated_at_ms: Option<u64>,
    /// The user asked, when deactivating, for what they left to be hidden from those who join later.
    pub erased: bool,
}
record!(AccountRecord, 1);

/// User -> account. A row for each local account ever made.
pub const ACCOUNTS: Table<OwnedUserId, AccountRecord> = Table::new(40, "accounts").cached();

/// User -> nothing, stamped with the position at which the account was deactivated and its user asked to be forgotten. Read by the rooms
/// crate, which shows what they wrote redacted. A row for each such account, for ever.
pub const ERASED_USERS: Table<OwnedUserId, Stamped<()>> = Table::new(250, "erased_users").cached();

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceRecord {
    pub display_name: Option<String>,
    pub created_at_ms: u64,
}
record!(DeviceRecord, 1);

/// User, device -> device. Made by logging in, deleted by logging out.
pub const DEVICES: Table<(OwnedUserId, OwnedDeviceId), DeviceRecord> = Table::new(41, "devices").cached();

/// When and from where a device last called.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeviceSeenRecord {
    pub at_ms: u64,
    pub address: Option<String>,
}
record!(DeviceSeenRecord, 1);

/// User, device -> last seen. Apart from [`DEVICES`] because it is written far more often, though at most every few minutes.
pub const DEVICES_SEEN: Table<(OwnedUserId, OwnedDeviceId), DeviceSeenRecord> = Table::new(42, "devices_seen").cached();

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccessTokenRecord {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub expires_at_ms: Option<u64>,
    /// The refresh token that this token came from, until this token is first used: only then is the old pair revoked.
    pub confirms: Option<TokenHash>,
}
record!(AccessTokenRecord, 1);

/// Access token -> whose it is. Rows go with the device, or when the token is replaced.
pub const ACCESS_TOKENS: Table<TokenHash, AccessTokenRecord> = Table::new(43, "access_tokens").cached();

/// How a refresh token stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RefreshState {
    /// Not used yet.
    Fresh,
    /// Used, but the pair it gave has not been used yet, and may never have reached the client.
    Replaced { access: TokenHash, refresh: TokenHash },
    /// Used, and so was what it gave. Whoever shows it again has stolen it, or was stolen from.
    Spent { at_ms: u64 },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RefreshTokenRecord {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    /// The access token that was handed out with it.
    pub access: TokenHash,
    /// The refresh token it came from, until it is first used.
    pub confirms: Option<TokenHash>,
    pub state: RefreshState,
}
record!(RefreshTokenRecord, 1);

/// Refresh token -> its record. Spent ones are kept some days to notice reuse, and deleted by a later refresh.
pub const REFRESH_TOKENS: Table<TokenHash, RefreshTokenRecord> = Table::new(44, "refresh_tokens");

/// Which table a token is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TokenKind {
    Access,
    Refresh,
}
record!(TokenKind, 1);

/// User, device, token: the tokens of a device, so that they can go with it.
pub const DEVICE_TOKENS: Table<(OwnedUserId, OwnedDeviceId, TokenHash), TokenKind> = Table::new(45, "device_tokens");

/// A token that stands for a user for a short time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BriefTokenRecord {
    pub user_id: OwnedUserId,
    pub expires_at_ms: u64,
}
record!(BriefTokenRecord, 1);

/// Login token (`m.login.token`) -> user. Deleted by its one use; expired ones by the next login with a token.
pub const LOGIN_TOKENS: Table<TokenHash, BriefTokenRecord> = Table::new(46, "login_tokens");

/// OpenID token -> user. Expired ones are deleted when the next is made.
pub const OPENID_TOKENS: Table<TokenHash, BriefTokenRecord> = Table::new(47, "openid_tokens");

/// Failed logins in a row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LoginFailuresRecord {
    pub count: u32,
    pub last_at_ms: u64,
}
record!(LoginFailuresRecord, 1);

/// `user:` and a user id, or `address:` and an address -> failed logins in a row. Deleted by a successful login; old rows by
/// later failures.
pub const LOGIN_FAILURES: Table<String, LoginFailuresRecord> = Table::new(48, "login_failures");

/// User, field -> value of the profile field. Local users only; rows go when the account is deactivated.
pub const PROFILE_FIELDS: Table<(OwnedUserId, String), Json<serde_json::Value>> = Table::new(49, "profile_fields");

/// User, filter id -> the filter as JSON text. The id is made from the text, so that the same filter is stored once.
pub const FILTERS: Table<(OwnedUserId, String), String> = Table::new(50, "filters");
