//! Logging a device in and out: the tokens it holds.

use chappe_store::{
    Batch, CommitError, Direction, Store, StoreError, Topic,
    tables::accounts::{
        ACCESS_TOKENS, AccessTokenRecord, DEVICE_TOKENS, REFRESH_TOKENS, RefreshState, RefreshTokenRecord, TokenHash,
        TokenKind,
    },
};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{
    Accounts, ChangeAccountError, Session,
    token::{TokenUse, new_token},
};
use crate::devices::{self, InvalidDevice};

/// The device that a login asks for.
#[derive(Clone, Debug, Default)]
pub struct NewDevice {
    /// `None`: the server makes one up. An existing one is taken over, and its tokens are revoked.
    pub device_id: Option<OwnedDeviceId>,
    /// Name of the device if it is new.
    pub display_name: Option<String>,
    /// The client can refresh tokens, so its access token may expire.
    pub refresh: bool,
}

/// What a client gets when it has logged in.
#[derive(Clone, Debug)]
pub struct LoggedIn {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub tokens: Tokens,
}

/// A new pair of tokens, or an access token alone that does not expire.
#[derive(Clone)]
pub struct Tokens {
    pub access: String,
    pub refresh: Option<String>,
    pub expires_in_ms: Option<u64>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("expires_in_ms", &self.expires_in_ms).finish_non_exhaustive()
    }
}

/// A login that did not come about though the user proved who they are.
#[derive(Debug, thiserror::Error)]
pub enum CreateSessionError {
    #[error("the account is locked")]
    Locked,
    #[error(transparent)]
    Device(#[from] InvalidDevice),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// The hashes of a new pair, as other records name them.
pub(super) struct TokenHashes {
    pub(super) access: TokenHash,
    pub(super) refresh: Option<TokenHash>,
}

impl Accounts {
    /// Logs a device in for a user who has already proven who they are.
    pub async fn create_session(&self, user_id: &UserId, device: &NewDevice) -> Result<LoggedIn, CreateSessionError> {
        self.commit_for(user_id, |batch| self.queue_session(batch, user_id, device)).await
    }

    /// Puts a login into a batch: the device, with only these tokens.
    pub(crate) fn queue_session(
        &self,
        batch: &mut Batch,
        user_id: &UserId,
        device: &NewDevice,
    ) -> Result<LoggedIn, CreateSessionError> {
        if self.get_restrictions(user_id)?.locked {
            return Err(CreateSessionError::Locked);
        }
        let device_id = devices::queue_device(&self.store, batch, user_id, device, self.clock.now_ms())?;
        queue_tokens_deleted(&self.store, batch, user_id, &device_id)?;
        let (tokens, _) = self.queue_tokens(batch, user_id, &device_id, device.refresh, None);
        Ok(LoggedIn { user_id: user_id.to_owned(), device_id, tokens })
    }

    /// Puts new tokens for a device into a batch. `confirms` is the refresh token they are made from.
    pub(super) fn queue_tokens(
        &self,
        batch: &mut Batch,
        user_id: &UserId,
        device_id: &DeviceId,
        refreshable: bool,
        confirms: Option<TokenHash>,
    ) -> (Tokens, TokenHashes) {
        let (user_id, device_id) = (user_id.to_owned(), device_id.to_owned());
        let expires_in_ms = refreshable.then_some(self.config.access_token_lifetime_ms);
        let (access_text, access) = new_token(TokenUse::Access);
        let expires_at_ms = expires_in_ms.map(|lifetime_ms| self.clock.now_ms().saturating_add(lifetime_ms));
        let record =
            AccessTokenRecord { user_id: user_id.clone(), device_id: device_id.clone(), expires_at_ms, confirms };
        batch.put(&ACCESS_TOKENS, &access, &record);
        batch.put(&DEVICE_TOKENS, &(user_id.clone(), device_id.clone(), access), &TokenKind::Access);
        let refresh = refreshable.then(|| {
            let (text, refresh) = new_token(TokenUse::Refresh);
            let record = RefreshTokenRecord {
                user_id: user_id.clone(),
                device_id: device_id.clone(),
                access,
                confirms,
                state: RefreshState::Fresh,
            };
            batch.put(&REFRESH_TOKENS, &refresh, &record);
            batch.put(&DEVICE_TOKENS, &(user_id.clone(), device_id.clone(), refresh), &TokenKind::Refresh);
            (text, refresh)
        });
        let (refresh_text, refresh) = refresh.unzip();
        (Tokens { access: access_text, refresh: refresh_text, expires_in_ms }, TokenHashes { access, refresh })
    }

    /// Ends a session and deletes its device.
    pub async fn delete_session(&self, session: &Session) -> Result<(), ChangeAccountError> {
        self.commit_for(&session.user_id, |batch| {
            Ok(devices::queue_devices_deleted(
                &self.store,
                batch,
                &session.user_id,
                std::slice::from_ref(&session.device_id),
            )?)
        })
        .await
    }

    /// Ends all sessions of a user and deletes their devices.
    pub async fn delete_all_sessions(&self, user_id: &UserId) -> Result<(), ChangeAccountError> {
        self.commit_for(user_id, |batch| Ok(self.queue_all_sessions_deleted(batch, user_id, None)?)).await
    }

    /// Puts the end of a user's sessions into a batch, but for one device if it is named.
    pub(crate) fn queue_all_sessions_deleted(
        &self,
        batch: &mut Batch,
        user_id: &UserId,
        except: Option<&DeviceId>,
    ) -> Result<(), StoreError> {
        let devices = devices::scan_device_records(&self.store, user_id)?.into_iter().map(|(device_id, _)| device_id);
        let others: Vec<_> = devices.filter(|device_id| except != Some(&**device_id)).collect();
        devices::queue_devices_deleted(&self.store, batch, user_id, &others)
    }
}

/// Puts the end of all of a device's tokens into a batch.
pub(crate) fn queue_tokens_deleted(
    store: &Store,
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<(), StoreError> {
    for row in store.scan(&DEVICE_TOKENS, &(user_id.to_owned(), device_id.to_owned()), Direction::Forward) {
        let ((user_id, device_id, token), kind) = row?;
        queue_token_deleted(batch, &user_id, &device_id, token, kind);
    }
    // Those who wait for news with a token that is gone are to notice.
    batch.wake(Topic::User(user_id.to_owned()));
    Ok(())
}

pub(super) fn queue_token_deleted(
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    token: TokenHash,
    kind: TokenKind,
) {
    match kind {
        TokenKind::Access => batch.delete(&ACCESS_TOKENS, &token),
        TokenKind::Refresh => batch.delete(&REFRESH_TOKENS, &token),
    }
    batch.delete(&DEVICE_TOKENS, &(user_id.to_owned(), device_id.to_owned(), token));
}
