//! Who may register, under which name, and how.

use std::{collections::BTreeMap, num::NonZeroUsize};

use chappe_store::{
    Batch, CommitError, Json, StoreError,
    tables::accounts::{ACCOUNTS, AccountKind, AccountRecord, PROFILE_FIELDS},
};
use hmac::{Hmac, KeyInit, Mac};
use lru::LruCache;
use ruma::{OwnedUserId, UserId};
use sha1::Sha1;

use crate::{
    accounts::{Accounts, CreateSessionError, HashError, LoggedIn, NewDevice, Session, WeakPassword, random_text},
    secret::Secret,
};

/// How long a nonce for registration with the shared secret is good for.
const NONCE_LIFETIME_MS: u64 = 60_000;
/// How many such nonces are kept at a time.
const NONCES_MAX: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
/// Longest user id, in bytes (appendices, "User Identifiers").
const USER_ID_BYTES_MAX: usize = 255;
/// Longest password, in bytes.
const PASSWORD_BYTES_MAX: usize = 512;

/// Who may register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegistrationMode {
    /// Nobody but through the operator.
    #[default]
    Closed,
    /// Whoever knows the registration token.
    Token,
    /// Everybody.
    Open,
}

#[derive(Clone, Debug, Default)]
pub struct RegistrationConfig {
    pub mode: RegistrationMode,
    /// What [`RegistrationMode::Token`] asks for.
    pub token: Option<Secret>,
    /// Lets tools register accounts through `/_synapse/admin/v1/register`.
    pub shared_secret: Option<Secret>,
    /// Whether whoever registers must prove to read an email address. Nothing on a server that sends no mail.
    pub require_email: bool,
    /// Whether guests get an account.
    pub allow_guests: bool,
    /// What whoever registers has to agree to.
    pub terms: Vec<TermsPolicy>,
}

/// A document that whoever registers has to agree to (client-server API, "Terms of service at registration").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermsPolicy {
    /// An opaque name.
    pub id: String,
    pub version: String,
    /// Language code -> the document's name and address in that language.
    pub languages: BTreeMap<String, TermsDocument>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermsDocument {
    pub name: String,
    pub url: String,
}

/// Nonces handed out for registration with the shared secret, and when.
pub(crate) struct Nonces(LruCache<String, u64>);

impl Default for Nonces {
    fn default() -> Self {
        Self(LruCache::new(NONCES_MAX))
    }
}

/// A user name that nobody can register.
#[derive(Debug, thiserror::Error)]
pub enum UsernameError {
    #[error("a user name consists of a-z, 0-9 and . _ = - / +, does not begin with _, and is not only digits")]
    Invalid,
    #[error("the user name is taken")]
    InUse,
    #[error("the user name belongs to an application service, or is not the service's own")]
    Exclusive,
    #[error(transparent)]
    Read(#[from] StoreError),
}

/// An account that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(transparent)]
    Username(#[from] UsernameError),
    #[error("the password is longer than {PASSWORD_BYTES_MAX} bytes")]
    PasswordTooLong,
    #[error(transparent)]
    WeakPassword(#[from] WeakPassword),
    /// An account is upgraded with a token and a name that are not of one guest.
    #[error("the token is not that of the guest of this name")]
    NotTheGuest,
    #[error("guests are not allowed here")]
    GuestsForbidden,
    #[error(transparent)]
    Session(#[from] CreateSessionError),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// A registration with the shared secret that was refused.
#[derive(Debug, thiserror::Error)]
pub enum SharedSecretError {
    #[error("registration with a shared secret is not enabled")]
    Disabled,
    #[error("unknown nonce")]
    UnknownNonce,
    #[error("the HMAC is wrong")]
    WrongMac,
    #[error(transparent)]
    Register(#[from] RegisterError),
}

/// An account to be made.
#[derive(Clone, Default)]
pub struct NewAccount {
    /// Local part of the user id; `None`: the server makes one up.
    pub username: Option<String>,
    /// `None`: no password opens the account.
    pub password: Option<String>,
    /// May use the administration API.
    pub admin: bool,
}

/// A registration with the shared secret.
pub struct SharedSecretRegistration {
    pub nonce: String,
    pub username: String,
    pub password: String,
    pub admin: bool,
    pub user_type: Option<String>,
    /// Hexadecimal HMAC-SHA1 over the others, separated by zero bytes.
    pub mac: String,
}

impl Accounts {
    pub fn registration_config(&self) -> &RegistrationConfig {
        &self.config.registration
    }

    /// The user id that registering this name would give. Capitals are lowered.
    pub fn check_username(&self, username: &str) -> Result<OwnedUserId, UsernameError> {
        let localpart = username.to_ascii_lowercase();
        // Only digits are for guests; a leading underscore is by custom for bridges and the server itself.
        let reserved = localpart.starts_with('_') || localpart.bytes().all(|byte| byte.is_ascii_digit());
        let user_id = self.parse_localpart(&localpart)?;
        if self.app_services().is_exclusive_user(&user_id, None) {
            return Err(UsernameError::Exclusive);
        }
        if reserved {
            return Err(UsernameError::Invalid);
        }
        if self.get_account(&user_id)?.is_some() { Err(UsernameError::InUse) } else { Ok(user_id) }
    }

    /// The user id with this local part, which must be one that new users may have (appendices, "User Identifiers").
    pub(crate) fn parse_localpart(&self, localpart: &str) -> Result<OwnedUserId, UsernameError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte);
        if localpart.is_empty() || !localpart.bytes().all(allowed) {
            return Err(UsernameError::Invalid);
        }
        let user_id =
            UserId::parse_with_server_name(localpart, self.server_name()).map_err(|_| UsernameError::Invalid)?;
        if user_id.as_bytes().len() > USER_ID_BYTES_MAX { Err(UsernameError::Invalid) } else { Ok(user_id) }
    }

    /// Makes an account, without a session: for the operator, and for clients that inhibit the login.
    pub async fn create_user(&self, account: &NewAccount) -> Result<OwnedUserId, RegisterError> {
        self.create_account(account, None).await.map(|(user_id, _)| user_id)
    }

    /// Makes an account and logs in. Whether the client may register at all is for [`crate::uia`] to have found out.
    pub async fn register(&self, account: &NewAccount, device: &NewDevice) -> Result<LoggedIn, RegisterError> {
        match self.create_account(account, Some(device)).await? {
            (_, Some(logged_in)) => Ok(logged_in),
            (user_id, None) => Ok(self.create_session(&user_id, device).await?),
        }
    }

    async fn create_account(
        &self,
        account: &NewAccount,
        device: Option<&NewDevice>,
    ) -> Result<(OwnedUserId, Option<LoggedIn>), RegisterError> {
        if let Some(password) = &account.password {
            self.check_new_password(password)?;
        }
        let username = account.username.clone().unwrap_or_else(|| random_text(b"abcdefghijklmnopqrstuvwxyz", 12));
        let user_id = self.check_username(&username)?;
        let password_hash = match &account.password {
            Some(password) => Some(self.hasher.hash(password).await?),
            None => None,
        };
        let record = self.new_record(AccountKind::User, account.admin, password_hash);
        self.commit_for(&user_id, |batch| {
            // Asked again under the guard: two may register the same name at the same time.
            if self.get_account(&user_id)?.is_some() {
                return Err(UsernameError::InUse.into());
            }
            self.queue_account(batch, &user_id, &record);
            let logged_in = device.map(|device| self.queue_session(batch, &user_id, device)).transpose()?;
            Ok((user_id.clone(), logged_in))
        })
        .await
    }

    /// Whether a password may be given to a new account. Asked again when the account is made.
    pub fn check_new_password(&self, password: &str) -> Result<(), RegisterError> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(RegisterError::PasswordTooLong);
        }
        Ok(self.config.password_policy.check(password)?)
    }

    /// Whether a guest may go on under this name as a user: it must be their own.
    pub fn check_upgrade(&self, guest: &Session, username: Option<&str>) -> Result<(), RegisterError> {
        let is_own = username.is_some_and(|username| username.to_ascii_lowercase() == guest.user_id.localpart());
        if guest.is_guest && is_own { Ok(()) } else { Err(RegisterError::NotTheGuest) }
    }

    /// Makes a guest a user, with a password, and logs in if a device is given (client-server API, "Guest Access").
    pub async fn upgrade_guest(
        &self,
        guest: &Session,
        password: &str,
        device: Option<&NewDevice>,
    ) -> Result<Option<LoggedIn>, RegisterError> {
        self.check_new_password(password)?;
        let hash = self.hasher.hash(password).await?;
        let user_id = &guest.user_id;
        self.commit_for(user_id, |batch| {
            let account = self
                .get_account(user_id)?
                .filter(|account| account.kind == AccountKind::Guest && account.deactivated_at_ms.is_none());
            let account = account.ok_or(RegisterError::NotTheGuest)?;
            let record = AccountRecord { kind: AccountKind::User, password_hash: Some(hash.clone()), ..account };
            batch.put(&ACCOUNTS, user_id, &record);
            Ok(device.map(|device| self.queue_session(batch, user_id, device)).transpose()?)
        })
        .await
    }

    /// Makes a guest account and logs in. A guest's device id is always the server's choice.
    pub async fn register_guest(&self, display_name: Option<String>, refresh: bool) -> Result<LoggedIn, RegisterError> {
        if !self.config.registration.allow_guests {
            return Err(RegisterError::GuestsForbidden);
        }
        let device = NewDevice { device_id: None, display_name, refresh };
        let localpart = random_text(b"0123456789", 18);
        let user_id = UserId::parse_with_server_name(localpart.as_str(), self.server_name())
            .map_err(|_| UsernameError::Invalid)?;
        let record = self.new_record(AccountKind::Guest, false, None);
        self.commit_for(&user_id, |batch| {
            if self.get_account(&user_id)?.is_some() {
                return Err(UsernameError::InUse.into());
            }
            batch.put(&ACCOUNTS, &user_id, &record);
            Ok(self.queue_session(batch, &user_id, &device)?)
        })
        .await
    }

    /// Puts a new account into a batch.
    pub(crate) fn queue_account(&self, batch: &mut Batch, user_id: &OwnedUserId, record: &AccountRecord) {
        batch.put(&ACCOUNTS, user_id, record);
        // A name to be called by, until the user chooses one.
        let display_name = (user_id.clone(), "displayname".to_owned());
        batch.put(&PROFILE_FIELDS, &display_name, &Json(user_id.localpart().into()));
    }

    pub(crate) fn new_record(&self, kind: AccountKind, admin: bool, password_hash: Option<String>) -> AccountRecord {
        let created_at_ms = self.clock.now_ms();
        AccountRecord { kind, admin, created_at_ms, password_hash, deactivated_at_ms: None, erased: false }
    }

    /// Whether this is the registration token (client-server API, `GET /v1/register/m.login.registration_token/validity`).
    pub fn is_registration_token(&self, token: &str) -> bool {
        let config = &self.config.registration;
        config.mode == RegistrationMode::Token && config.token.as_ref().is_some_and(|secret| secret.matches(token))
    }

    /// A nonce for [`Self::register_with_shared_secret`]; `None` when that is not enabled.
    pub fn create_nonce(&self) -> Option<String> {
        self.config.registration.shared_secret.as_ref()?;
        let nonce = hex::encode(rand::random::<[u8; 32]>());
        self.nonces.lock().0.put(nonce.clone(), self.clock.now_ms());
        Some(nonce)
    }

    /// Makes an account for whoever knows the shared secret, whatever the registration mode.
    pub async fn register_with_shared_secret(
        &self,
        registration: &SharedSecretRegistration,
    ) -> Result<LoggedIn, SharedSecretError> {
        let Some(secret) = &self.config.registration.shared_secret else { return Err(SharedSecretError::Disabled) };
        let made_at_ms = self.nonces.lock().0.pop(&registration.nonce).ok_or(SharedSecretError::UnknownNonce)?;
        if made_at_ms.saturating_add(NONCE_LIFETIME_MS) <= self.clock.now_ms() {
            return Err(SharedSecretError::UnknownNonce);
        }
        let mac = hex::decode(&registration.mac).map_err(|_| SharedSecretError::WrongMac)?;
        shared_secret_mac(secret, registration)?.verify_slice(&mac).map_err(|_| SharedSecretError::WrongMac)?;
        let account = NewAccount {
            username: Some(registration.username.clone()),
            password: Some(registration.password.clone()),
            admin: registration.admin,
        };
        Ok(self.register(&account, &NewDevice::default()).await?)
    }
}

fn shared_secret_mac(
    secret: &Secret,
    registration: &SharedSecretRegistration,
) -> Result<Hmac<Sha1>, SharedSecretError> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).map_err(|_| SharedSecretError::WrongMac)?;
    let admin = if registration.admin { "admin" } else { "notadmin" };
    for (index, part) in
        [&registration.nonce, &registration.username, &registration.password, admin].into_iter().enumerate()
    {
        if index > 0 {
            mac.update(b"\0");
        }
        mac.update(part.as_bytes());
    }
    if let Some(user_type) = &registration.user_type {
        mac.update(b"\0");
        mac.update(user_type.as_bytes());
    }
    Ok(mac)
}

/// The HMAC that proves knowledge of the shared secret, as a tool sends it: for the operator's own tools.
///
/// # Errors
/// Never in practice: HMAC takes keys of any length.
pub fn shared_secret_mac_hex(
    secret: &Secret,
    registration: &SharedSecretRegistration,
) -> Result<String, SharedSecretError> {
    Ok(hex::encode(shared_secret_mac(secret, registration)?.finalize().into_bytes()))
}
