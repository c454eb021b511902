//! Locked and suspended accounts, and which of them are administrators (client-server API, "Account locking", "Account suspension",
//! "Server Administration").
//!
//! A locked account's tokens stay, and open nothing but the way out. What a suspended one may not do is for the endpoints to ask.

use chappe_store::{
    CommitError, StoreError,
    tables::{
        accounts::ACCOUNTS,
        moderation::{ACCOUNT_RESTRICTIONS, AccountRestrictionsRecord},
    },
};
use ruma::UserId;

use super::{AccountRecord, Accounts, ChangeAccountError, Session};

/// What an administrator may do to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restriction {
    Lock,
    Suspend,
}

/// An administrator's request that was refused.
#[derive(Debug, thiserror::Error)]
pub enum AdministerError {
    #[error("only administrators of this server may do this")]
    NotAdmin,
    #[error("the account is another administrator's, or your own")]
    TargetIsAdmin,
    #[error("the user is not of this server")]
    NotLocal,
    /// There is no such account, or it is deactivated.
    #[error("there is no such account")]
    NotFound,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

impl Accounts {
    pub(super) fn get_restrictions(&self, user_id: &UserId) -> Result<AccountRestrictionsRecord, StoreError> {
        Ok(self.store.get(&ACCOUNT_RESTRICTIONS, &user_id.to_owned())?.unwrap_or_default())
    }

    /// Whether a user may not act on others for the time being.
    pub fn is_suspended(&self, user_id: &UserId) -> Result<bool, StoreError> {
        Ok(self.get_restrictions(user_id)?.suspended)
    }

    /// Whether an administrator finds an account restricted.
    pub fn get_restriction(
        &self,
        admin: &Session,
        user_id: &UserId,
        restriction: Restriction,
    ) -> Result<bool, AdministerError> {
        let account = self.get_administered(admin, user_id)?;
        if account.admin && admin.user_id != user_id {
            return Err(AdministerError::TargetIsAdmin);
        }
        let found = self.get_restrictions(user_id)?;
        Ok(match restriction {
            Restriction::Lock => found.locked,
            Restriction::Suspend => found.suspended,
        })
    }

    /// Restricts an account for an administrator, or ends the restriction.
    pub async fn set_restriction(
        &self,
        admin: &Session,
        user_id: &UserId,
        restriction: Restriction,
        applies: bool,
    ) -> Result<(), AdministerError> {
        self.commit_for(user_id, |batch| {
            if self.get_administered(admin, user_id)?.admin {
                return Err(AdministerError::TargetIsAdmin);
            }
            let before = self.get_restrictions(user_id)?;
            let after = match restriction {
                Restriction::Lock => AccountRestrictionsRecord { locked: applies, ..before },
                Restriction::Suspend => AccountRestrictionsRecord { suspended: applies, ..before },
            };
            if after == AccountRestrictionsRecord::default() {
                batch.delete(&ACCOUNT_RESTRICTIONS, &user_id.to_owned());
            } else if after != before {
                batch.put(&ACCOUNT_RESTRICTIONS, &user_id.to_owned(), &after);
            }
            Ok(())
        })
        .await
    }

    /// The account that an administrator means. Who asks is looked at first, so that nobody else learns which accounts there are.
    fn get_administered(&self, admin: &Session, user_id: &UserId) -> Result<AccountRecord, AdministerError> {
        if !admin.is_admin {
            return Err(AdministerError::NotAdmin);
        }
        if !self.is_local(user_id) {
            return Err(AdministerError::NotLocal);
        }
        let account = self.get_account(user_id)?.filter(|account| account.deactivated_at_ms.is_none());
        account.ok_or(AdministerError::NotFound)
    }

    /// The operator makes an account an administrator's, or an ordinary one.
    pub async fn set_admin(&self, user_id: &UserId, is_admin: bool) -> Result<(), ChangeAccountError> {
        self.commit_for(user_id, |batch| {
            let account = self.get_active_account(user_id)?;
            batch.put(&ACCOUNTS, &user_id.to_owned(), &AccountRecord { admin: is_admin, ..account });
            Ok(())
        })
        .await
    }
}
