//! Local accounts: who exists, who is logged in, and with which secret.
//!
//! Devices, profiles and account data have modules of their own. User-interactive authentication is in [`crate::uia`], the
//! rules of who may register in [`crate::registration`].

use std::sync::Arc;

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, CommitError, Direction, Domain, Stamped, Store, StoreError,
    tables::{
        account_data::{ACCOUNT_DATA, ACCOUNT_DATA_LOG},
        accounts::{ACCESS_TOKENS, ACCOUNTS, ERASED_USERS, FILTERS, PROFILE_FIELDS, TokenHash},
        key_backup::{BACKUP_KEYS, BACKUP_VERSIONS},
        thread_subscriptions::{THREAD_SUBSCRIPTION_LOG, THREAD_SUBSCRIPTIONS},
    },
};
use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId};

mod app_service;
mod login;
mod openid;
mod password;
mod password_policy;
mod refresh;
mod restrict;
mod session;
#[cfg(test)]
mod tests;
mod token;

pub use app_service::{AppServiceLoginError, AssertIdentityError, CreateSenderError};
pub use chappe_store::tables::accounts::{AccountKind, AccountRecord};
pub use login::{CheckPasswordError, LockoutConfig, LoginError};
pub use password::{HashError, PasswordHashing};
pub use password_policy::{PasswordPolicy, WeakPassword};
pub use refresh::RefreshError;
pub use restrict::{AdministerError, Restriction};
pub use session::{CreateSessionError, LoggedIn, NewDevice, Tokens};

pub(crate) use password::PasswordHasher;
pub(crate) use session::queue_tokens_deleted;
pub(crate) use token::random_text;

use crate::{
    app_services::{Registration, Registrations},
    emails::queue_emails_deleted,
    guarded::commit_guarded,
    registration::RegistrationConfig,
};

/// What the operator decides about accounts.
#[derive(Clone, Debug)]
pub struct AccountsConfig {
    pub server_name: OwnedServerName,
    pub registration: RegistrationConfig,
    /// How long an access token is good for whose client can refresh it, in milliseconds.
    pub access_token_lifetime_ms: u64,
    pub password_hashing: PasswordHashing,
    pub password_policy: PasswordPolicy,
    pub lockout: LockoutConfig,
    /// The application services that act for users of this server.
    pub app_services: Registrations,
}

impl AccountsConfig {
    /// The defaults for a server of this name. Registration is closed.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            registration: RegistrationConfig::default(),
            access_token_lifetime_ms: 3_600_000,
            password_hashing: PasswordHashing::default(),
            password_policy: PasswordPolicy::default(),
            lockout: LockoutConfig::default(),
            app_services: Registrations::default(),
        }
    }
}

/// Who makes a request, proven by an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub user_id: OwnedUserId,
    /// Empty for an application service that acts without a device: see [`Session::device`].
    pub device_id: OwnedDeviceId,
    pub is_guest: bool,
    /// May use the administration API.
    pub is_admin: bool,
    /// The hash of the access token.
    pub token: TokenHash,
    /// The application service that acts for the user.
    pub app_service: Option<Arc<Registration>>,
}

impl Session {
    /// The device, if there is one: application services may do without.
    pub fn device(&self) -> Option<&DeviceId> {
        if self.device_id.as_str().is_empty() { None } else { Some(&self.device_id) }
    }

    /// Whether what the session does is limited in rate.
    pub fn is_limited(&self) -> bool {
        self.app_service.as_ref().is_none_or(|service| service.limits(&self.user_id))
    }
}

/// An access token that opens nothing.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticateError {
    #[error("unknown access token")]
    Unknown,
    /// The device still exists: its client refreshes the token or logs in again, and keeps its data.
    #[error("the access token has expired")]
    Expired,
    /// The account is locked: the token opens nothing until it no longer is.
    #[error("the account is locked")]
    Locked,
    #[error(transparent)]
    Read(#[from] StoreError),
}

/// A change to an account that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeAccountError {
    #[error("there is no such account")]
    NotFound,
    #[error("the account is deactivated")]
    Deactivated,
    #[error(transparent)]
    Password(#[from] WeakPassword),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// The accounts of this server.
pub struct Accounts {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: AccountsConfig,
    pub(crate) hasher: PasswordHasher,
    pub(crate) nonces: Mutex<crate::registration::Nonces>,
    counting_failures: Mutex<()>,
}

impl Accounts {
    /// # Errors
    /// The password hashing parameters are not ones that argon2 takes.
    pub fn new(store: Store, clock: Arc<dyn Clock>, config: AccountsConfig) -> Result<Self, HashError> {
        let hasher = PasswordHasher::new(config.password_hashing)?;
        Ok(Self { store, clock, config, hasher, nonces: Mutex::default(), counting_failures: Mutex::new(()) })
    }

    pub fn server_name(&self) -> &ServerName {
        &self.config.server_name
    }

    /// Whether this user id belongs to this server, account or not.
    pub fn is_local(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.config.server_name
    }

    pub fn get_account(&self, user_id: &UserId) -> Result<Option<AccountRecord>, StoreError> {
        self.store.get(&ACCOUNTS, &user_id.to_owned())
    }

    /// Every account, in order of user ids.
    pub fn list_users(&self) -> Result<Vec<(OwnedUserId, AccountRecord)>, StoreError> {
        self.store.scan(&ACCOUNTS, &(), Direction::Forward).collect()
    }

    /// The session behind an access token. The first use of a refreshed token ends the one it replaces.
    pub fn authenticate(&self, access_token: &str) -> Result<Session, AuthenticateError> {
        let session = self.authenticate_even_if_locked(access_token)?;
        if self.get_restrictions(&session.user_id)?.locked { Err(AuthenticateError::Locked) } else { Ok(session) }
    }

    /// As [`Accounts::authenticate`], also for a locked account: to log out.
    pub fn authenticate_even_if_locked(&self, access_token: &str) -> Result<Session, AuthenticateError> {
        let token = token::token_hash(access_token);
        let record = self.store.get(&ACCESS_TOKENS, &token)?.ok_or(AuthenticateError::Unknown)?;
        let account = self.get_account(&record.user_id)?.ok_or(AuthenticateError::Unknown)?;
        if account.deactivated_at_ms.is_some() {
            return Err(AuthenticateError::Unknown);
        }
        if record.expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms <= self.clock.now_ms()) {
            return Err(AuthenticateError::Expired);
        }
        if let Some(before) = record.confirms {
            self.apply_first_use(&record, before)?;
        }
        Ok(Session {
            user_id: record.user_id,
            device_id: record.device_id,
            is_guest: account.kind == AccountKind::Guest,
            is_admin: account.admin,
            token,
            app_service: None,
        })
    }

    /// Gives the user of a session a new password. `log_out_others` ends all their other sessions.
    pub async fn change_password(
        &self,
        session: &Session,
        password: &str,
        log_out_others: LogOutOthers,
    ) -> Result<(), ChangeAccountError> {
        self.config.password_policy.check(password)?;
        let hash = self.hasher.hash(password).await?;
        self.commit_for(&session.user_id, |batch| {
            self.queue_password(batch, &session.user_id, &hash)?;
            if log_out_others == LogOutOthers::Yes {
                self.queue_all_sessions_deleted(batch, &session.user_id, Some(&session.device_id))?;
            }
            Ok(())
        })
        .await
    }

    /// What is asked of new passwords.
    pub fn password_policy(&self) -> &PasswordPolicy {
        &self.config.password_policy
    }

    /// The operator gives a user a new password; all their sessions end.
    pub async fn reset_password(&self, user_id: &UserId, password: &str) -> Result<(), ChangeAccountError> {
        self.replace_password(user_id, password, LogOutOthers::Yes).await
    }

    /// Gives a user a new password without a session of theirs. `log_out_others` ends all their sessions.
    pub async fn replace_password(
        &self,
        user_id: &UserId,
        password: &str,
        log_out_others: LogOutOthers,
    ) -> Result<(), ChangeAccountError> {
        let hash = self.hasher.hash(password).await?;
        self.commit_for(user_id, |batch| {
            self.queue_password(batch, user_id, &hash)?;
            if log_out_others == LogOutOthers::Yes {
                self.queue_all_sessions_deleted(batch, user_id, None)?;
            }
            Ok(())
        })
        .await
    }

    fn queue_password(&self, batch: &mut Batch, user_id: &UserId, hash: &str) -> Result<(), ChangeAccountError> {
        let account = self.get_active_account(user_id)?;
        batch.put(&ACCOUNTS, &user_id.to_owned(), &AccountRecord { password_hash: Some(hash.to_owned()), ..account });
        Ok(())
    }

    fn get_active_account(&self, user_id: &UserId) -> Result<AccountRecord, ChangeAccountError> {
        let account = self.get_account(user_id)?.ok_or(ChangeAccountError::NotFound)?;
        if account.deactivated_at_ms.is_some() { Err(ChangeAccountError::Deactivated) } else { Ok(account) }
    }

    /// Ends an account for good: no login, no session, no device; the user id is never given out again. With [`Erase::Yes`]
    /// all that was the user's own goes too, and what they wrote is shown redacted to those who come later. Leaving the user's rooms
    /// and deleting their uploads is the caller's part.
    pub async fn deactivate(&self, user_id: &UserId, erase: Erase) -> Result<(), ChangeAccountError> {
        self.commit_for(user_id, |batch| {
            let account = self.get_active_account(user_id)?;
            let erased = erase == Erase::Yes;
            let record = AccountRecord {
                password_hash: None,
                deactivated_at_ms: Some(self.clock.now_ms()),
                erased,
                admin: false,
                ..account
            };
            batch.put(&ACCOUNTS, &user_id.to_owned(), &record);
            self.queue_all_sessions_deleted(batch, user_id, None)?;
            queue_emails_deleted(&self.store, batch, user_id)?;
            if erased {
                let position = batch.next_position();
                batch.put(&ERASED_USERS, &user_id.to_owned(), &Stamped { position, value: () });
                batch.delete_prefix(&PROFILE_FIELDS, &(user_id.to_owned(),));
                batch.delete_prefix(&FILTERS, &(user_id.to_owned(),));
                batch.delete_prefix(&ACCOUNT_DATA, &(user_id.to_owned(),));
                batch.delete_prefix(&ACCOUNT_DATA_LOG, &(user_id.to_owned(),));
                batch.delete_prefix(&BACKUP_VERSIONS, &(user_id.to_owned(),));
                batch.delete_prefix(&BACKUP_KEYS, &(user_id.to_owned(),));
                batch.delete_prefix(&THREAD_SUBSCRIPTIONS, &(user_id.to_owned(),));
                batch.delete_prefix(&THREAD_SUBSCRIPTION_LOG, &(user_id.to_owned(),));
            }
            Ok(())
        })
        .await
    }

    /// Commits under the account's domain, so that no two changes to one account overlook each other.
    pub(crate) async fn commit_for<T, E>(
        &self,
        user_id: &UserId,
        compute: impl FnMut(&mut Batch) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<StoreError> + From<CommitError>,
    {
        commit_guarded(&self.store, Domain::Account(user_id.to_owned()), compute).await
    }
}

/// Whether a new password ends the user's other sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutOthers {
    Yes,
    No,
}

/// Whether a deactivated user asks to be forgotten as far as possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erase {
    Yes,
    No,
}
