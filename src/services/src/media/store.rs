//! Files on disk: content named by its SHA-256, and the thumbnails made of it.
//!
//! Layout under the root: `content/ab/cd/<hash>`, `thumbnails/ab/cd/<hash>/<name>`, `tmp/` for what is still being written. It
//! knows nothing of media ids or users; which hashes are wanted is in the store's media tables.

use std::{
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::{fs, io::AsyncWriteExt};

use super::retention::{Pin, Pins};

/// How long the next piece of a file may take to arrive.
const STALL_MAX: Duration = Duration::from_secs(60);

/// The folder that holds every file of the media repository.
pub struct MediaFiles {
    root: PathBuf,
    next_temporary: AtomicU64,
    pins: Pins,
}

/// Content that is on disk and will stay there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrittenContent {
    pub sha256: [u8; 32],
    pub size_bytes: u64,
}

/// Why a stream of bytes was not kept. Nothing of it remains on disk.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the content is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: u64 },
    /// The sender broke off, or sent too slowly.
    #[error("the content did not arrive whole: {0}")]
    Incomplete(String),
    #[error("writing a media file: {0}")]
    Disk(#[from] io::Error),
}

impl MediaFiles {
    /// Opens the folder, makes it if need be, and removes what earlier runs left half-written.
    pub fn open(root: &Path) -> io::Result<Self> {
        let temporary = root.join("tmp");
        match std::fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&temporary)?;
        std::fs::create_dir_all(root.join("content"))?;
        std::fs::create_dir_all(root.join("thumbnails"))?;
        sync_dir_now(root)?;
        Ok(Self { root: root.to_owned(), next_temporary: AtomicU64::new(0), pins: Pins::default() })
    }

    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Writes a stream to disk, hashing it on the way. When this returns, the file survives a power cut; it stays as long as the pin
    /// is held, or a row names it.
    pub async fn write_content<E: std::fmt::Display>(
        &self,
        body: impl Stream<Item = Result<Bytes, E>>,
        bytes_max: u64,
    ) -> Result<(WrittenContent, Pin), WriteError> {
        let temporary = self.temporary();
        let mut file = fs::File::create(&temporary.path).await?;
        let mut hasher = Sha256::new();
        let mut size_bytes: u64 = 0;
        let mut body = std::pin::pin!(body);
        while let Some(chunk) = tokio::time::timeout(STALL_MAX, body.next())
            .await
            .map_err(|_| WriteError::Incomplete("the sender stalled".to_owned()))?
        {
            let chunk = chunk.map_err(|error| WriteError::Incomplete(error.to_string()))?;
            size_bytes = size_bytes.saturating_add(chunk.len() as u64);
            if size_bytes > bytes_max {
                return Err(WriteError::TooLarge { bytes_max });
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await?;
        }
        file.flush().await?;
        file.sync_all().await?;
        drop(file);
        let sha256: [u8; 32] = hasher.finalize().into();
        let pin = self.pins.pin(sha256);
        self.keep(temporary, &self.content_path(&sha256)).await?;
        Ok((WrittenContent { sha256, size_bytes }, pin))
    }

    /// Writes a thumbnail. It is as durable as content is: a torn file would be served for ever.
    pub async fn write_thumbnail(&self, sha256: &[u8; 32], name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let temporary = self.temporary();
        let mut file = fs::File::create(&temporary.path).await?;
        file.write_all(bytes).await?;
        file.flush().await?;
        file.sync_all().await?;
        drop(file);
        let path = self.thumbnail_path(sha256, name);
        self.keep(temporary, &path).await?;
        Ok(path)
    }

    /// Removes a content file and all its thumbnails. Blocking.
    pub(super) fn remove_now(&self, sha256: &[u8; 32]) -> io::Result<()> {
        let absent = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) };
        std::fs::remove_file(self.content_path(sha256)).or_else(absent)?;
        std::fs::remove_dir_all(spread(self.root.join("thumbnails"), &hex::encode(sha256))).or_else(absent)
    }

    pub fn content_path(&self, sha256: &[u8; 32]) -> PathBuf {
        content_path(&self.root, sha256)
    }

    /// Where a thumbnail of this content is, if it was made. `name` tells its size and method, and is chosen here, never by a client.
    pub fn thumbnail_path(&self, sha256: &[u8; 32], name: &str) -> PathBuf {
        spread(self.root.join("thumbnails"), &hex::encode(sha256)).join(name)
    }

    fn temporary(&self) -> Temporary {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        Temporary { path: self.root.join("tmp").join(format!("{number}")) }
    }

    /// Moves a finished file to its place, and waits until the move is durable.
    async fn keep(&self, temporary: Temporary, target: &Path) -> io::Result<()> {
        let Some(parent) = target.parent().map(Path::to_owned) else {
            return Err(io::Error::other("a media path has no parent"));
        };
        fs::create_dir_all(&parent).await?;
        // Renaming over a file of equal content changes nothing for those who read it.
        fs::rename(&temporary.path, target).await?;
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || {
            // The folders may be new themselves, so their own entries are flushed too, up to the root.
            let mut dir = parent.as_path();
            while dir != root {
                sync_dir_now(dir)?;
                let Some(above) = dir.parent() else { break };
                dir = above;
            }
            Ok(())
        })
        .await
        .map_err(io::Error::other)?
    }
}

/// A file being written; removed if it is not moved to its place.
struct Temporary {
    path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove any more, which is the normal case.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Where content with this hash is, under the root of the media files.
pub fn content_path(root: &Path, sha256: &[u8; 32]) -> PathBuf {
    spread(root.join("content"), &hex::encode(sha256))
}

fn spread(root: PathBuf, hash: &str) -> PathBuf {
    let first = hash.get(0..2).unwrap_or_default();
    let second = hash.get(2..4).unwrap_or_default();
    root.join(first).join(second).join(hash)
}

fn sync_dir_now(dir: &Path) -> io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn chunks(parts: &[&'static str]) -> impl Stream<Item = Result<Bytes, String>> {
        stream::iter(parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect::<Vec<_>>())
    }

    fn temporary_files(root: &Path) -> usize {
        std::fs::read_dir(root.join("tmp")).map(Iterator::count).unwrap_or_default()
    }

    #[tokio::test]
    async fn equal_content_is_stored_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = MediaFiles::open(dir.path()).unwrap();
        let (first, _pin) = files.write_content(chunks(&["hello ", "world"]), 100).await.unwrap();
        let (second, _pin) = files.write_content(chunks(&["hello world"]), 100).await.unwrap();
        assert_eq!(first, second);
        assert_eq!(first.size_bytes, 11);
        assert_eq!(std::fs::read(files.content_path(&first.sha256)).unwrap(), b"hello world");
        assert_eq!(temporary_files(dir.path()), 0);
    }

    #[tokio::test]
    async fn content_over_the_limit_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let files = MediaFiles::open(dir.path()).unwrap();
        let error = files.write_content(chunks(&["12345", "67890"]), 9).await.err().unwrap();
        assert!(matches!(error, WriteError::TooLarge { bytes_max: 9 }));
        assert_eq!(temporary_files(dir.path()), 0);
    }

    #[tokio::test]
    async fn broken_stream_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let files = MediaFiles::open(dir.path()).unwrap();
        let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err("connection reset")]);
        let error = files.write_content(broken, 100).await.err().unwrap();
        assert!(matches!(error, WriteError::Incomplete(_)));
        assert_eq!(temporary_files(dir.path()), 0);
    }

    #[tokio::test]
    async fn opening_removes_what_an_earlier_run_left_half_written() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("tmp")).unwrap();
        std::fs::write(dir.path().join("tmp/7"), b"half").unwrap();
        MediaFiles::open(dir.path()).unwrap();
        assert_eq!(temporary_files(dir.path()), 0);
    }
}
