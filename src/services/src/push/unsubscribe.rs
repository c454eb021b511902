//! Links in mails by which whoever reads an address can stop the mails, without logging in.
//!
//! A link names the pusher and proves by a code that this server made it. It does nothing else than delete that pusher.

use chappe_store::{Batch, CommitError, Domain, Store, StoreError, tables::push::UNSUBSCRIBE_SECRET};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::pushers::{PusherKey, Pushers, SetPusherError};
use crate::{accounts::random_text, guarded::commit_guarded};

/// Where the links lead, below the server's public URL.
pub const UNSUBSCRIBE_PATH: &str = "/_chappe/email/unsubscribe";

/// How many letters the secret has.
const SECRET_CHARS: usize = 64;

/// A link that stops nothing.
#[derive(Debug, thiserror::Error)]
pub enum UnsubscribeError {
    #[error("this is no link of a mail of this server")]
    WrongCode,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Delete(#[from] SetPusherError),
}

impl Pushers {
    /// The code in the links that stop a pusher.
    pub async fn make_unsubscribe_code(&self, key: &PusherKey) -> Result<String, CommitError> {
        let domain = Domain::Named { kind: "unsubscribe_secret", id: String::new() };
        let secret = commit_guarded::<_, CommitError>(&self.store, domain, |batch: &mut Batch| {
            if let Some(secret) = get_secret(&self.store)? {
                return Ok(secret);
            }
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
            let secret = random_text(alphabet, SECRET_CHARS).into_bytes();
            batch.put(&UNSUBSCRIBE_SECRET, &(), &secret);
            Ok(secret)
        })
        .await?;
        // HMAC takes keys of any length.
        let mac = mac(&secret, key).map(|mac| hex::encode(mac.finalize().into_bytes()));
        mac.ok_or_else(|| CommitError::Invalid("the secret of unsubscribing is no key".to_owned()))
    }

    /// Deletes the pusher that a link names. One that is gone already is no error.
    pub async fn unsubscribe(&self, key: &PusherKey, code: &str) -> Result<(), UnsubscribeError> {
        let secret = get_secret(&self.store)?.ok_or(UnsubscribeError::WrongCode)?;
        let code = hex::decode(code).map_err(|_| UnsubscribeError::WrongCode)?;
        let mac = mac(&secret, key).ok_or(UnsubscribeError::WrongCode)?;
        mac.verify_slice(&code).map_err(|_| UnsubscribeError::WrongCode)?;
        Ok(self.delete(key).await?)
    }
}

fn get_secret(store: &Store) -> Result<Option<Vec<u8>>, StoreError> {
    store.get(&UNSUBSCRIBE_SECRET, &())
}

fn mac(secret: &[u8], key: &PusherKey) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
    for part in ["unsubscribe", key.user_id.as_str(), &key.app_id, &key.pushkey] {
        mac.update(part.as_bytes());
        mac.update(&[0]);
    }
    Some(mac)
}
