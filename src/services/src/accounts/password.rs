//! Password hashes: argon2id, off the async threads, and only so many at a time.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use tokio::sync::Semaphore;

/// How passwords are hashed. Changing it affects new hashes only: each hash names its own parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordHashing {
    /// argon2's m, in KiB. Each hash in work takes that much memory.
    pub memory_kib: u32,
    /// argon2's t, passes.
    pub passes: u32,
    /// argon2's p, lanes.
    pub lanes: u32,
    /// How many hashes are computed at a time; more wait.
    pub concurrent_max: usize,
}

impl Default for PasswordHashing {
    fn default() -> Self {
        Self { memory_kib: 19_456, passes: 2, lanes: 1, concurrent_max: 4 }
    }
}

/// A password that could not be hashed or compared.
#[derive(Debug, thiserror::Error)]
#[error("password hashing: {0}")]
pub struct HashError(String);

/// Hashes and compares passwords.
pub(crate) struct PasswordHasher {
    argon2: Argon2<'static>,
    permits: Arc<Semaphore>,
    /// A hash of no password, compared against when there is no account, so that the answer takes as long.
    decoy: String,
}

impl PasswordHasher {
    pub(crate) fn new(config: PasswordHashing) -> Result<Self, HashError> {
        let params = Params::new(config.memory_kib, config.passes, config.lanes, None)
            .map_err(|error| HashError(error.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let unguessable: [u8; 32] = rand::random();
        let decoy = argon2.hash_password(&unguessable).map_err(|error| HashError(error.to_string()))?.to_string();
        Ok(Self { argon2, permits: Arc::new(Semaphore::new(config.concurrent_max.max(1))), decoy })
    }

    pub(crate) async fn hash(&self, password: &str) -> Result<String, HashError> {
        let (argon2, password) = (self.argon2.clone(), password.to_owned());
        self.run(move || {
            argon2
                .hash_password(password.as_bytes())
                .map(|hash| hash.to_string())
                .map_err(|error| HashError(error.to_string()))
        })
        .await?
    }

    /// Whether the password has this hash. Without a hash the answer is no, and takes the same time.
    pub(crate) async fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool, HashError> {
        let (argon2, password) = (self.argon2.clone(), password.to_owned());
        let (known, hash) = (hash.is_some(), hash.unwrap_or(&self.decoy).to_owned());
        let matches = self.run(move || argon2.verify_password(password.as_bytes(), hash.as_str()).is_ok()).await?;
        Ok(known && matches)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, HashError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|error| HashError(error.to_string()))?;
        // The permit goes with the work: a request that is given up does not let another hash start beside it.
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        task.await.map_err(|error| HashError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher() -> PasswordHasher {
        PasswordHasher::new(PasswordHashing { memory_kib: 64, passes: 1, lanes: 1, concurrent_max: 1 }).unwrap()
    }

    #[tokio::test]
    async fn only_the_password_itself_verifies() {
        let hasher = hasher();
        let hash = hasher.hash("übers3kr1t").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=64,t=1,p=1$"));
        assert!(hasher.verify("übers3kr1t", Some(&hash)).await.unwrap());
        assert!(!hasher.verify("ubers3kr1t", Some(&hash)).await.unwrap());
        assert!(!hasher.verify("übers3kr1t", None).await.unwrap());
    }

    #[test]
    fn default_is_what_the_hardening_notes_ask_for() {
        let PasswordHashing { memory_kib, passes, lanes, .. } = PasswordHashing::default();
        assert_eq!((memory_kib, passes, lanes), (19_456, 2, 1));
    }
}
