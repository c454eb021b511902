//! OpenID tokens: a user proves to a third party who they are, without letting it in.

use chappe_store::{
    Batch, CommitError, Direction, StoreError,
    tables::accounts::{BriefTokenRecord, OPENID_TOKENS},
};
use ruma::{OwnedUserId, UserId};

use super::{
    Accounts,
    token::{TokenUse, new_token, token_hash},
};

/// How long an OpenID token is good for.
const OPENID_TOKEN_LIFETIME_MS: u64 = 3_600_000;

impl Accounts {
    /// A new OpenID token, and how long it is good for, in milliseconds
    /// (client-server API, `POST /v3/user/{userId}/openid/request_token`).
    pub async fn create_openid_token(&self, user_id: &UserId) -> Result<(String, u64), CommitError> {
        let (text, token) = new_token(TokenUse::OpenId);
        let now_ms = self.clock.now_ms();
        let mut batch = Batch::new();
        for row in self.store.scan(&OPENID_TOKENS, &(), Direction::Forward) {
            let (token, record) = row?;
            if record.expires_at_ms <= now_ms {
                batch.delete(&OPENID_TOKENS, &token);
            }
        }
        let expires_at_ms = now_ms.saturating_add(OPENID_TOKEN_LIFETIME_MS);
        batch.put(&OPENID_TOKENS, &token, &BriefTokenRecord { user_id: user_id.to_owned(), expires_at_ms });
        self.store.commit(batch).await?;
        Ok((text, OPENID_TOKEN_LIFETIME_MS))
    }

    /// Whose OpenID token this is (server-server API, `GET /v1/openid/userinfo`); `None` when it is unknown or expired.
    pub fn get_openid_user(&self, token: &str) -> Result<Option<OwnedUserId>, StoreError> {
        let Some(record) = self.store.get(&OPENID_TOKENS, &token_hash(token))? else { return Ok(None) };
        let account = self.get_account(&record.user_id)?;
        let valid = record.expires_at_ms > self.clock.now_ms()
            && account.is_some_and(|account| account.deactivated_at_ms.is_none());
        Ok(valid.then_some(record.user_id))
    }
}
