//! Committing under a guard: read, compute, commit, and all of it again if somebody else was faster.

use chappe_store::{Batch, CommitError, Domain, Store, StoreError};

/// Commits what `compute` puts into the batch, guarded by `domain`. `compute` reads the store itself, and may be called again.
/// An answer is returned only when everything it was read from is durable.
pub(crate) async fn commit_guarded<T, E>(
    store: &Store,
    domain: Domain,
    mut compute: impl FnMut(&mut Batch) -> Result<T, E>,
) -> Result<T, E>
where
    E: From<StoreError> + From<CommitError>,
{
    loop {
        let mut batch = Batch::new();
        batch.guard(domain.clone(), store.domain_version(&domain)?);
        let answer = compute(&mut batch)?;
        let committed = if batch.is_empty() { store.barrier().await } else { store.commit(batch).await.map(|_| ()) };
        match committed {
            Ok(()) => return Ok(answer),
            Err(CommitError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
