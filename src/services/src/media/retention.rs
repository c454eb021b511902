//! What goes again: media that nobody asked for in a long time, as the operator configures it, and the quota of each uploader.
//!
//! A file on disk is shared by all media of equal content, and goes with the last of them. Between writing a file and committing the row
//! that names it the file is *pinned*, so that it does not go under the feet of an upload.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chappe_store::{
    Batch, CommitError, Direction, StoreError,
    tables::media::{CONTENT_MEDIA, MEDIA, MEDIA_SEEN, MediaRecord, USER_MEDIA},
};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName, UserId};

use super::{Inner, Media, UploadError};

/// How often it is looked for what may go.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// How exactly it is noted when a file was last asked for, in milliseconds.
const SEEN_EVERY_MS: u64 = 24 * 3600 * 1000;
/// How many media are deleted in a row before others get a turn.
const DELETED_AT_ONCE_MAX: usize = 1_000;

type MediaKey = (OwnedServerName, String);

/// Content hashes whose files must stay although no row names them yet.
#[derive(Clone, Default)]
pub(super) struct Pins(Arc<Mutex<HashMap<[u8; 32], usize>>>);

impl Pins {
    pub(super) fn pin(&self, sha256: [u8; 32]) -> Pin {
        *self.0.lock().entry(sha256).or_default() += 1;
        Pin { pins: self.clone(), sha256 }
    }

    /// Calls `remove` unless the content is pinned; nobody can pin it meanwhile.
    fn unless_pinned<T>(&self, sha256: &[u8; 32], remove: impl FnOnce() -> T) -> Option<T> {
        let pins = self.0.lock();
        if pins.contains_key(sha256) { None } else { Some(remove()) }
    }
}

/// Keeps a file in its place until it is dropped.
pub struct Pin {
    pins: Pins,
    sha256: [u8; 32],
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock();
        if let Some(count) = pins.get_mut(&self.sha256) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.sha256);
            }
        }
    }
}

impl Inner {
    /// Refuses an upload of this size by a user whose quota is used up.
    pub(super) fn check_quota(&self, user_id: &UserId, size_bytes: u64) -> Result<(), UploadError> {
        let Some(bytes_max) = self.config.user_bytes_max else { return Ok(()) };
        let mut used: u64 = 0;
        for row in self.store.scan(&USER_MEDIA, &(user_id.to_owned(),), Direction::Forward) {
            used = used.saturating_add(row?.1);
        }
        if used.saturating_add(size_bytes) > bytes_max { Err(UploadError::QuotaUsedUp { bytes_max }) } else { Ok(()) }
    }

    /// Notes that somebody asked for a file; written at most once a day, and nobody waits for it.
    pub(super) fn note_seen(&self, server_name: &ServerName, media_id: &str) -> Result<(), StoreError> {
        if self.config.local_kept.is_none() && self.config.remote_kept.is_none() {
            return Ok(());
        }
        let key = (server_name.to_owned(), media_id.to_owned());
        let now_ms = self.clock.now_ms();
        if self.store.get(&MEDIA_SEEN, &key)?.is_some_and(|at_ms| now_ms < at_ms.saturating_add(SEEN_EVERY_MS)) {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.put(&MEDIA_SEEN, &key, &now_ms);
        if let Err(error) = self.store.enqueue(batch) {
            tracing::warn!(%error, "could not note when a file was last asked for");
        }
        Ok(())
    }
}

impl Media {
    /// Deletes a medium, and its file and thumbnails if no other has the same content. One that is not there is no error.
    pub async fn delete(&self, server_name: &ServerName, media_id: &str) -> Result<(), CommitError> {
        let inner = &self.0;
        let key = (server_name.to_owned(), media_id.to_owned());
        let Some(record) = inner.store.get(&MEDIA, &key)? else { return Ok(()) };
        let mut batch = Batch::new();
        batch.delete(&MEDIA, &key);
        batch.delete(&MEDIA_SEEN, &key);
        if let Some(uploader) = record.uploader {
            batch.delete(&USER_MEDIA, &(uploader, media_id.to_owned()));
        }
        let Some(content) = record.content else {
            inner.store.commit(batch).await?;
            return Ok(());
        };
        batch.delete(&CONTENT_MEDIA, &(content.sha256, key.0, key.1));
        inner.store.commit(batch).await?;
        let this = self.clone();
        let removal = tokio::task::spawn_blocking(move || this.remove_unused_file(&content.sha256));
        match removal.await {
            Ok(result) => result?,
            Err(error) => tracing::error!(%error, "removing a file ended before its time"),
        }
        Ok(())
    }

    /// Deletes everything that a user has uploaded; says how many media that were.
    pub async fn delete_all_of(&self, user_id: &UserId) -> Result<usize, CommitError> {
        let inner = &self.0;
        let mut deleted = 0;
        loop {
            let rows = inner.store.scan(&USER_MEDIA, &(user_id.to_owned(),), Direction::Forward);
            let some: Vec<_> = rows.take(DELETED_AT_ONCE_MAX).collect::<Result<_, _>>()?;
            if some.is_empty() {
                return Ok(deleted);
            }
            for ((_, media_id), _) in some {
                self.delete(&inner.server_name, &media_id).await?;
                // Also where the medium was gone already.
                let mut batch = Batch::new();
                batch.delete(&USER_MEDIA, &(user_id.to_owned(), media_id));
                inner.store.commit(batch).await?;
                deleted += 1;
            }
            tokio::task::yield_now().await;
        }
    }

    fn remove_unused_file(&self, sha256: &[u8; 32]) -> Result<(), StoreError> {
        let inner = &self.0;
        let removed = inner.files.pins().unless_pinned(sha256, || {
            let mut others = inner.store.scan(&CONTENT_MEDIA, &(*sha256,), Direction::Forward);
            if others.next().transpose()?.is_none()
                && let Err(error) = inner.files.remove_now(sha256)
            {
                tracing::error!(%error, "a media file that nobody needs could not be removed");
            }
            Ok(())
        });
        removed.unwrap_or(Ok(()))
    }

    /// Deletes from time to time what is past its retention, for as long as the server runs.
    pub async fn run(self) {
        loop {
            if let Err(error) = self.delete_old().await {
                tracing::error!(%error, "old media could not be deleted");
            }
            tokio::time::sleep(SWEEP_EVERY).await;
        }
    }

    /// Deletes what is past its retention now; says how many media that were.
    pub async fn delete_old(&self) -> Result<usize, CommitError> {
        let inner = &self.0;
        if inner.config.local_kept.is_none() && inner.config.remote_kept.is_none() {
            return Ok(0);
        }
        let mut deleted = 0;
        let mut after: Option<MediaKey> = None;
        loop {
            let (old, last) = self.scan_old(after.take())?;
            for (server_name, media_id) in &old {
                self.delete(server_name, media_id).await?;
                deleted += 1;
            }
            match last {
                Some(last) => after = Some(last),
                None => return Ok(deleted),
            }
            tokio::task::yield_now().await;
        }
    }

    /// Media past their retention after this one, and where to go on, unless it came to the end.
    fn scan_old(&self, after: Option<MediaKey>) -> Result<(Vec<MediaKey>, Option<MediaKey>), StoreError> {
        let inner = &self.0;
        let mut old = Vec::new();
        for row in inner.store.scan(&MEDIA, &(), Direction::Forward) {
            let (key, record) = row?;
            if after.as_ref().is_some_and(|after| key <= *after) {
                continue;
            }
            if self.is_old(&key, &record)? {
                old.push(key.clone());
                if old.len() >= DELETED_AT_ONCE_MAX {
                    return Ok((old, Some(key)));
                }
            }
        }
        Ok((old, None))
    }

    fn is_old(&self, key: &MediaKey, record: &MediaRecord) -> Result<bool, StoreError> {
        let inner = &self.0;
        let kept = if key.0 == inner.server_name { inner.config.local_kept } else { inner.config.remote_kept };
        let Some(kept) = kept else { return Ok(false) };
        if record.content.is_none() {
            return Ok(false);
        }
        let seen_ms = inner.store.get(&MEDIA_SEEN, key)?.unwrap_or_default().max(record.created_ms);
        let kept_ms = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
        // The note of the last request may be a day late.
        Ok(seen_ms.saturating_add(kept_ms).saturating_add(SEEN_EVERY_MS) <= inner.clock.now_ms())
    }
}
