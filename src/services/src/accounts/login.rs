//! Proving who one is: by password, or by a login token.
//!
//! Unknown users, users without a password and wrong passwords are answered alike, and in the same time. Failures in a row lock
//! the account and the address for a while; the count survives a restart.

use std::net::IpAddr;

use chappe_store::{
    Batch, CommitError, Direction, StoreError,
    tables::accounts::{AccountRecord, BriefTokenRecord, LOGIN_FAILURES, LOGIN_TOKENS, LoginFailuresRecord},
};
use ruma::{OwnedUserId, UserId};

use super::{
    Accounts,
    password::HashError,
    session::{CreateSessionError, LoggedIn, NewDevice},
    token::{TokenUse, new_token, token_hash},
};

/// How long a login token is good for.
const LOGIN_TOKEN_LIFETIME_MS: u64 = 120_000;

/// When failed logins in a row lock out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockoutConfig {
    pub enabled: bool,
    /// Failures after which an account is locked.
    pub account_failures_max: u32,
    /// Failures after which an address is locked: higher, since many people may share one.
    pub address_failures_max: u32,
    /// Length of the first lock, in milliseconds; each further failure doubles it.
    pub first_ms: u64,
    /// Longest lock, in milliseconds. As long without a failure, and the count starts anew.
    pub longest_ms: u64,
}

impl Default for LockoutConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            account_failures_max: 10,
            address_failures_max: 100,
            first_ms: 1_000,
            longest_ms: 900_000,
        }
    }
}

/// Credentials that prove nothing.
#[derive(Debug, thiserror::Error)]
pub enum CheckPasswordError {
    /// Unknown user, no password, wrong password: nobody is told which.
    #[error("wrong user or password")]
    Wrong,
    #[error("too many failed attempts")]
    LockedOut { retry_after_ms: u64 },
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// A login that failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error(transparent)]
    Password(#[from] CheckPasswordError),
    #[error("the login token is unknown, used or expired")]
    Token,
    #[error(transparent)]
    Session(#[from] CreateSessionError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

impl Accounts {
    /// Logs in with a password. `user` is a user id or its local part.
    pub async fn login_with_password(
        &self,
        user: &str,
        password: &str,
        device: &NewDevice,
        address: Option<IpAddr>,
    ) -> Result<LoggedIn, LoginError> {
        // A user id that cannot be one of ours takes the same path: no account, same time.
        let user_id = self.get_login_user_id(user)?;
        self.check_password(user_id.as_deref(), password, address).await?;
        let Some(user_id) = user_id else { return Err(CheckPasswordError::Wrong.into()) };
        Ok(self.create_session(&user_id, device).await?)
    }

    /// The user id that somebody means who logs in as `user`. Capitals mean small letters, unless an old account has capitals.
    pub fn get_login_user_id(&self, user: &str) -> Result<Option<OwnedUserId>, StoreError> {
        let parsed = if user.starts_with('@') {
            UserId::parse(user)
        } else {
            UserId::parse_with_server_name(user, &self.config.server_name)
        };
        let Ok(user_id) = parsed else { return Ok(None) };
        if user_id.server_name() != self.config.server_name {
            return Ok(None);
        }
        if self.get_account(&user_id)?.is_some() {
            return Ok(Some(user_id));
        }
        Ok(UserId::parse_with_server_name(user_id.localpart().to_lowercase(), &self.config.server_name).ok())
    }

    /// Checks that this is the password of a user who may log in.
    pub async fn check_password(
        &self,
        user_id: Option<&UserId>,
        password: &str,
        address: Option<IpAddr>,
    ) -> Result<AccountRecord, CheckPasswordError> {
        let subjects = self.lockout_subjects(user_id, address);
        for (subject, failures_max) in &subjects {
            self.check_not_locked_out(subject, *failures_max)?;
        }
        let account = match user_id {
            Some(user_id) => self.get_account(user_id)?.filter(|account| account.deactivated_at_ms.is_none()),
            None => None,
        };
        let hash = account.as_ref().and_then(|account| account.password_hash.as_deref());
        let matches = self.hasher.verify(password, hash).await?;
        match account {
            Some(account) if matches => {
                if let Some((subject, _)) = subjects.first()
                    && self.store.contains(&LOGIN_FAILURES, subject)?
                {
                    let mut batch = Batch::new();
                    batch.delete(&LOGIN_FAILURES, subject);
                    self.store.commit(batch).await?;
                }
                Ok(account)
            }
            _ => {
                self.apply_login_failure(&subjects).await?;
                Err(CheckPasswordError::Wrong)
            }
        }
    }

    /// What failures are counted by, the account first, with the number that locks it.
    fn lockout_subjects(&self, user_id: Option<&UserId>, address: Option<IpAddr>) -> Vec<(String, u32)> {
        let lockout = &self.config.lockout;
        if !lockout.enabled {
            return Vec::new();
        }
        let account = user_id.map(|user_id| (format!("user:{user_id}"), lockout.account_failures_max));
        let address = address.map(|address| (format!("address:{address}"), lockout.address_failures_max));
        account.into_iter().chain(address).collect()
    }

    fn check_not_locked_out(&self, subject: &str, failures_max: u32) -> Result<(), CheckPasswordError> {
        let Some(failures) = self.store.get(&LOGIN_FAILURES, &subject.to_owned())? else { return Ok(()) };
        let Some(beyond) = failures.count.checked_sub(failures_max) else { return Ok(()) };
        let lockout = &self.config.lockout;
        let lock_ms =
            lockout.first_ms.saturating_mul(1_u64.checked_shl(beyond).unwrap_or(u64::MAX)).min(lockout.longest_ms);
        let until_ms = failures.last_at_ms.saturating_add(lock_ms);
        match until_ms.saturating_sub(self.clock.now_ms()) {
            0 => Ok(()),
            retry_after_ms => Err(CheckPasswordError::LockedOut { retry_after_ms }),
        }
    }

    async fn apply_login_failure(&self, subjects: &[(String, u32)]) -> Result<(), CheckPasswordError> {
        if subjects.is_empty() {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        let mut batch = Batch::new();
        {
            // Counts are read and written under one lock, so that attempts at the same time are all counted.
            let _counting = self.counting_failures.lock();
            for (subject, _) in subjects {
                let before = self.store.get(&LOGIN_FAILURES, subject)?;
                let count = before.filter(|before| !self.is_forgiven(before, now_ms)).map_or(0, |before| before.count);
                batch.put(
                    &LOGIN_FAILURES,
                    subject,
                    &LoginFailuresRecord { count: count.saturating_add(1), last_at_ms: now_ms },
                );
            }
            self.queue_forgiven_failures_deleted(&mut batch, now_ms)?;
            self.store.enqueue(batch)?
        }
        .durable()
        .await?;
        Ok(())
    }

    fn is_forgiven(&self, failures: &LoginFailuresRecord, now_ms: u64) -> bool {
        failures.last_at_ms.saturating_add(self.config.lockout.longest_ms) <= now_ms
    }

    /// Rows that count no more go, a few at a time.
    fn queue_forgiven_failures_deleted(&self, batch: &mut Batch, now_ms: u64) -> Result<(), StoreError> {
        const LOOKED_AT_MAX: usize = 20;
        let start: u64 = rand::random();
        let from = format!("{}:{:x}", if start.is_multiple_of(2) { "user" } else { "address" }, start);
        for row in
            self.store.scan_range(&LOGIN_FAILURES, &(from,), &("v".to_owned(),), Direction::Forward).take(LOOKED_AT_MAX)
        {
            let (subject, failures) = row?;
            if self.is_forgiven(&failures, now_ms) {
                batch.delete(&LOGIN_FAILURES, &subject);
            }
        }
        Ok(())
    }

    /// A login token for another client of the same user (client-server API, `POST /v1/login/get_token`).
    /// The answer is the token and how long it is good for, in milliseconds.
    pub async fn create_login_token(&self, user_id: &UserId) -> Result<(String, u64), CommitError> {
        let (text, token) = new_token(TokenUse::Login);
        let expires_at_ms = self.clock.now_ms().saturating_add(LOGIN_TOKEN_LIFETIME_MS);
        let mut batch = Batch::new();
        batch.put(&LOGIN_TOKENS, &token, &BriefTokenRecord { user_id: user_id.to_owned(), expires_at_ms });
        for row in self.store.scan(&LOGIN_TOKENS, &(), Direction::Forward) {
            let (token, record) = row?;
            if record.expires_at_ms <= self.clock.now_ms() {
                batch.delete(&LOGIN_TOKENS, &token);
            }
        }
        self.store.commit(batch).await?;
        Ok((text, LOGIN_TOKEN_LIFETIME_MS))
    }

    /// Logs in with a login token, which is good for one login.
    pub async fn login_with_token(&self, token: &str, device: &NewDevice) -> Result<LoggedIn, LoginError> {
        let token = token_hash(token);
        let user_id = self.store.get(&LOGIN_TOKENS, &token)?.ok_or(LoginError::Token)?.user_id;
        self.commit_for(&user_id, |batch| {
            let record = self.store.get(&LOGIN_TOKENS, &token)?.ok_or(LoginError::Token)?;
            let account = self.get_account(&user_id)?.ok_or(LoginError::Token)?;
            if record.expires_at_ms <= self.clock.now_ms() || account.deactivated_at_ms.is_some() {
                return Err(LoginError::Token);
            }
            batch.delete(&LOGIN_TOKENS, &token);
            Ok(self.queue_session(batch, &user_id, device)?)
        })
        .await
    }
}
