//! For tests: accounts without passwords, put straight into the store. The tests of the API take this file in too.

use chappe_store::{
    Batch, Store,
    tables::accounts::{ACCOUNTS, AccountKind, AccountRecord},
};
use ruma::UserId;

/// A user's account.
pub(crate) fn account() -> AccountRecord {
    AccountRecord {
        kind: AccountKind::User,
        admin: false,
        created_at_ms: 0,
        password_hash: None,
        deactivated_at_ms: None,
        erased: false,
    }
}

pub(crate) async fn put_accounts(store: &Store, user_ids: &[&UserId]) {
    let mut batch = Batch::new();
    for user_id in user_ids {
        batch.put(&ACCOUNTS, &(*user_id).to_owned(), &account());
    }
    store.commit(batch).await.unwrap();
}
