//! Refreshing tokens (client-server API, "Refreshing access tokens").
//!
//! A refresh gives a new pair and leaves the old one usable until the new one is first used, since the answer may be lost on
//! its way. After that, showing the old refresh token again means that two parties hold it: all of the device's tokens go.

use chappe_store::{
    Batch, CommitError, Direction, Domain, StoreError,
    tables::accounts::{
        ACCESS_TOKENS, AccessTokenRecord, DEVICE_TOKENS, REFRESH_TOKENS, RefreshState, RefreshTokenRecord, TokenHash,
        TokenKind,
    },
};

use super::{
    Accounts,
    session::{Tokens, queue_token_deleted, queue_tokens_deleted},
    token::token_hash,
};

/// How long a spent refresh token is remembered, to notice its reuse.
const SPENT_KEPT_MS: u64 = 7 * 24 * 3600 * 1000;

/// A refresh token that gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error("unknown refresh token")]
    Unknown,
    /// It was used before, and so was what it gave: the device's tokens are revoked.
    #[error("the refresh token was used twice")]
    Reused,
    #[error("the account is locked")]
    Locked,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

impl Accounts {
    /// A new pair of tokens for a refresh token.
    pub async fn refresh(&self, refresh_token: &str) -> Result<Tokens, RefreshError> {
        let token = token_hash(refresh_token);
        let user_id = self.store.get(&REFRESH_TOKENS, &token)?.ok_or(RefreshError::Unknown)?.user_id;
        let account = self.get_account(&user_id)?.ok_or(RefreshError::Unknown)?;
        if account.deactivated_at_ms.is_some() {
            return Err(RefreshError::Unknown);
        }
        if self.get_restrictions(&user_id)?.locked {
            return Err(RefreshError::Locked);
        }
        let tokens = self.commit_for(&user_id, |batch| {
            let record = self.store.get(&REFRESH_TOKENS, &token)?.ok_or(RefreshError::Unknown)?;
            Ok::<_, RefreshError>(self.queue_refresh(batch, token, record)?)
        });
        tokens.await?.ok_or(RefreshError::Reused)
    }

    /// `None`: the token was reused, and the batch revokes the device's tokens.
    fn queue_refresh(
        &self,
        batch: &mut Batch,
        token: TokenHash,
        record: RefreshTokenRecord,
    ) -> Result<Option<Tokens>, StoreError> {
        let (user_id, device_id) = (&record.user_id, &record.device_id);
        match record.state {
            RefreshState::Spent { .. } => {
                tracing::warn!(user.id = %user_id, "a refresh token was used twice: its device's tokens are revoked");
                queue_tokens_deleted(&self.store, batch, user_id, device_id)?;
                return Ok(None);
            }
            // The client never used what it got: it gets another pair in its place.
            RefreshState::Replaced { access, refresh } => {
                queue_token_deleted(batch, user_id, device_id, access, TokenKind::Access);
                queue_token_deleted(batch, user_id, device_id, refresh, TokenKind::Refresh);
            }
            RefreshState::Fresh => {}
        }
        if let Some(before) = record.confirms {
            self.queue_confirmed(batch, before)?;
        }
        self.queue_old_spent_deleted(batch, &record)?;
        let (tokens, hashes) = self.queue_tokens(batch, user_id, device_id, true, Some(token));
        let state = match hashes.refresh {
            Some(refresh) => RefreshState::Replaced { access: hashes.access, refresh },
            None => RefreshState::Fresh,
        };
        batch.put(&REFRESH_TOKENS, &token, &RefreshTokenRecord { state, confirms: None, ..record });
        Ok(Some(tokens))
    }

    /// The pair made from `before` is in use: `before` is spent, and the access token beside it ends.
    fn queue_confirmed(&self, batch: &mut Batch, before: TokenHash) -> Result<(), StoreError> {
        let Some(record) = self.store.get(&REFRESH_TOKENS, &before)? else { return Ok(()) };
        queue_token_deleted(batch, &record.user_id, &record.device_id, record.access, TokenKind::Access);
        if let RefreshState::Replaced { access, refresh } = record.state {
            if let Some(token) = self.store.get(&ACCESS_TOKENS, &access)? {
                batch.put(&ACCESS_TOKENS, &access, &AccessTokenRecord { confirms: None, ..token });
            }
            if let Some(token) = self.store.get(&REFRESH_TOKENS, &refresh)? {
                batch.put(&REFRESH_TOKENS, &refresh, &RefreshTokenRecord { confirms: None, ..token });
            }
        }
        batch.put(
            &REFRESH_TOKENS,
            &before,
            &RefreshTokenRecord { state: RefreshState::Spent { at_ms: self.clock.now_ms() }, ..record },
        );
        Ok(())
    }

    /// An access token is used for the first time. Nobody waits for this to be durable: if it is lost, the next use repeats it.
    pub(super) fn apply_first_use(&self, record: &AccessTokenRecord, before: TokenHash) -> Result<(), StoreError> {
        let domain = Domain::Account(record.user_id.clone());
        let mut batch = Batch::new();
        batch.guard(domain.clone(), self.store.domain_version(&domain)?);
        self.queue_confirmed(&mut batch, before)?;
        match self.store.enqueue(batch) {
            Ok(_) | Err(CommitError::Conflict) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "could not note the first use of an access token");
                Ok(())
            }
        }
    }

    fn queue_old_spent_deleted(&self, batch: &mut Batch, current: &RefreshTokenRecord) -> Result<(), StoreError> {
        let before_ms = self.clock.now_ms().saturating_sub(SPENT_KEPT_MS);
        let prefix = (current.user_id.clone(), current.device_id.clone());
        for row in self.store.scan(&DEVICE_TOKENS, &prefix, Direction::Forward) {
            let ((user_id, device_id, token), kind) = row?;
            if kind != TokenKind::Refresh {
                continue;
            }
            let record = self.store.get(&REFRESH_TOKENS, &token)?;
            if record.is_some_and(|record| matches!(record.state, RefreshState::Spent { at_ms } if at_ms < before_ms)) {
                queue_token_deleted(batch, &user_id, &device_id, token, kind);
            }
        }
        Ok(())
    }
}
