//! The content repository: uploads, downloads, thumbnails, and copies of other servers' media (client-server API, content
//! repository).
//!
//! A file is on disk, flushed, before the row that names it commits: what is acknowledged is kept. Equal content is stored once.
//! HTTP (headers, ranges, status codes) is the api crate's; opening connections is [`remote::MediaTransport`]'s.

pub mod multipart;
pub mod remote;
pub mod retention;
pub mod store;
pub mod thumbnails;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, CommitError, Direction, Domain, Store, StoreError,
    tables::media::{CONTENT_MEDIA, MEDIA, MediaContent, MediaRecord, PENDING_UPLOADS, USER_MEDIA},
};
use futures_util::Stream;
use rand::RngExt;
use ruma::{OwnedMxcUri, OwnedServerName, OwnedUserId, ServerName, UserId};
use tokio::{
    io::AsyncReadExt,
    sync::{Notify, Semaphore},
};

use crate::guarded::commit_guarded;

use self::{
    remote::{FetchMediaError, Flights, MediaTransport},
    store::{MediaFiles, WriteError, WrittenContent},
    thumbnails::{Method, RenderError, ThumbnailLimits, Variant},
};

/// How the repository behaves. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    /// The largest upload taken.
    pub upload_bytes_max: u64,
    /// The largest file fetched from another server.
    pub remote_bytes_max: u64,
    /// How long one fetch from another server may take in all.
    pub remote_time_max: Duration,
    /// How many files are fetched from other servers at once.
    pub remote_concurrent_max: usize,
    /// How long a reserved media id waits for its upload.
    pub unused_expires: Duration,
    /// How many reserved ids without content one user may have.
    pub pending_uploads_max: usize,
    pub thumbnails: ThumbnailLimits,
    /// How many thumbnails are made at once.
    pub thumbnails_concurrent_max: usize,
    /// How long a client waits for a thumbnail to be made.
    pub thumbnail_time_max: Duration,
    /// How long a user's upload is kept after somebody last asked for it. `None`: for ever.
    pub local_kept: Option<Duration>,
    /// How long a copy of another server's file is kept after somebody last asked for it. `None`: for ever.
    pub remote_kept: Option<Duration>,
    /// How much one user may have uploaded in all. `None`: any amount.
    pub user_bytes_max: Option<u64>,
    /// Whether new media can be had from the old endpoints that ask for no access token.
    pub legacy_unauthenticated: bool,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            upload_bytes_max: 100 * 1024 * 1024,
            remote_bytes_max: 100 * 1024 * 1024,
            remote_time_max: Duration::from_secs(300),
            remote_concurrent_max: 32,
            unused_expires: Duration::from_secs(24 * 3600),
            pending_uploads_max: 32,
            thumbnails: ThumbnailLimits::default(),
            thumbnails_concurrent_max: 2,
            thumbnail_time_max: Duration::from_secs(20),
            local_kept: None,
            remote_kept: None,
            user_bytes_max: None,
            legacy_unauthenticated: false,
        }
    }
}

/// What an uploader says of a file.
#[derive(Clone, Debug, Default)]
pub struct FileInfo {
    pub content_type: Option<String>,
    pub filename: Option<String>,
}

/// Which endpoints a request came by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// With an access token, or a server's signature.
    Authenticated,
    /// By the old endpoints, from anybody.
    Legacy,
}

/// A file ready to be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredFile {
    pub path: PathBuf,
    pub size_bytes: u64,
    pub sha256: [u8; 32],
    pub content_type: Option<String>,
    pub filename: Option<String>,
}

/// Why an upload was not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("the file is larger than the {bytes_max} bytes this server takes")]
    TooLarge { bytes_max: u64 },
    #[error("everything that you uploaded may take {bytes_max} bytes, and that is used up")]
    QuotaUsedUp { bytes_max: u64 },
    #[error("{0}")]
    Incomplete(String),
    /// No such reserved id, or it has expired.
    #[error("unknown media id")]
    UnknownId,
    /// Somebody else reserved the id.
    #[error("this media id belongs to somebody else")]
    NotOwner,
    #[error("this media id has content already")]
    AlreadyUploaded,
    /// Too many reserved ids without content.
    #[error("too many media ids are waiting for their upload")]
    TooManyPending { retry_after: Duration },
    #[error("media files: {0}")]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<WriteError> for UploadError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::TooLarge { bytes_max } => Self::TooLarge { bytes_max },
            WriteError::Incomplete(cause) => Self::Incomplete(cause),
            WriteError::Disk(cause) => Self::Disk(cause),
        }
    }
}

impl From<StoreError> for UploadError {
    fn from(error: StoreError) -> Self {
        Self::Commit(error.into())
    }
}

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum GetMediaError {
    #[error("media ids consist of letters, digits, _ and -")]
    InvalidId,
    #[error("no such media")]
    NotFound,
    #[error("the media is not uploaded yet")]
    NotYetUploaded,
    #[error(transparent)]
    Remote(Arc<FetchMediaError>),
    #[error("media files: {0}")]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a thumbnail cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ThumbnailError {
    #[error(transparent)]
    Media(#[from] GetMediaError),
    #[error("{0}")]
    Unsupported(String),
    /// `remote` tells whose image it is: the spec has a status for each.
    #[error("the image is too large to make a thumbnail of")]
    TooLarge { remote: bool },
    #[error("making the thumbnail took too long")]
    TimedOut,
}

impl From<io::Error> for ThumbnailError {
    fn from(error: io::Error) -> Self {
        Self::Media(error.into())
    }
}

/// The content repository; a cheap handle.
#[derive(Clone)]
pub struct Media(Arc<Inner>);

struct Inner {
    store: Store,
    files: MediaFiles,
    server_name: OwnedServerName,
    clock: Arc<dyn Clock>,
    transport: Arc<dyn MediaTransport>,
    config: MediaConfig,
    flights: Flights<MediaRecord>,
    render_slots: Arc<Semaphore>,
    /// Told whenever a reserved id gets its content.
    uploaded: Notify,
}

impl Media {
    /// Opens the repository in `root`, a folder of its own under the data directory.
    pub fn open(
        root: &std::path::Path,
        store: Store,
        server_name: OwnedServerName,
        clock: Arc<dyn Clock>,
        transport: Arc<dyn MediaTransport>,
        config: MediaConfig,
    ) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            store,
            files: MediaFiles::open(root)?,
            server_name,
            clock,
            transport,
            flights: Flights::new(config.remote_concurrent_max),
            render_slots: Arc::new(Semaphore::new(config.thumbnails_concurrent_max)),
            config,
            uploaded: Notify::new(),
        })))
    }

    pub fn config(&self) -> &MediaConfig {
        &self.0.config
    }

    pub fn server_name(&self) -> &ServerName {
        &self.0.server_name
    }

    /// Takes an upload: `POST /_matrix/media/v3/upload`.
    pub async fn upload<E: std::fmt::Display>(
        &self,
        uploader: &UserId,
        info: FileInfo,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<OwnedMxcUri, UploadError> {
        let inner = &self.0;
        inner.check_quota(uploader, 0)?;
        let (written, _pin) = inner.files.write_content(body, inner.config.upload_bytes_max).await?;
        let media_id = new_media_id();
        let record = inner.record(Some(uploader.to_owned()), Some(content(written, info)));
        commit_guarded(&inner.store, uploads_of(uploader), |batch| {
            inner.check_quota(uploader, written.size_bytes)?;
            put_media(batch, &inner.server_name, &media_id, &record);
            Ok::<_, UploadError>(())
        })
        .await?;
        Ok(mxc_uri(&inner.server_name, &media_id))
    }

    /// Keeps a file that no user uploaded: the server's own.
    pub async fn keep(&self, info: FileInfo, bytes: Bytes) -> Result<OwnedMxcUri, UploadError> {
        let inner = &self.0;
        let body = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(bytes)]);
        let (written, _pin) = inner.files.write_content(body, inner.config.upload_bytes_max).await?;
        let media_id = new_media_id();
        let record = inner.record(None, Some(content(written, info)));
        let mut batch = Batch::new();
        put_media(&mut batch, &inner.server_name, &media_id, &record);
        inner.store.commit(batch).await?;
        Ok(mxc_uri(&inner.server_name, &media_id))
    }

    /// Reserves a media id for a later upload: `POST /_matrix/media/v1/create`. Also answers when the id expires, in milliseconds
    /// since the Unix epoch.
    pub async fn create(&self, user_id: &UserId) -> Result<(OwnedMxcUri, u64), UploadError> {
        let inner = &self.0;
        let user_id = user_id.to_owned();
        let now_ms = inner.clock.now_ms();
        let mut batch = Batch::new();
        let mut pending = Vec::new();
        for row in inner.store.scan(&PENDING_UPLOADS, &(user_id.clone(),), Direction::Forward) {
            let ((_, media_id), expires_ms) = row?;
            if expires_ms > now_ms {
                pending.push(expires_ms);
            } else {
                batch.delete(&PENDING_UPLOADS, &(user_id.clone(), media_id.clone()));
                batch.delete(&MEDIA, &(inner.server_name.clone(), media_id));
            }
        }
        if pending.len() >= inner.config.pending_uploads_max {
            let first_ms = pending.into_iter().min().unwrap_or(now_ms);
            return Err(UploadError::TooManyPending {
                retry_after: Duration::from_millis(first_ms.saturating_sub(now_ms)),
            });
        }
        let expires_ms =
            now_ms.saturating_add(u64::try_from(inner.config.unused_expires.as_millis()).unwrap_or(u64::MAX));
        let media_id = new_media_id();
        let record = MediaRecord { unused_expires_ms: Some(expires_ms), ..inner.record(Some(user_id.clone()), None) };
        batch.put(&MEDIA, &(inner.server_name.clone(), media_id.clone()), &record);
        batch.put(&PENDING_UPLOADS, &(user_id, media_id.clone()), &expires_ms);
        inner.store.commit(batch).await?;
        Ok((mxc_uri(&inner.server_name, &media_id), expires_ms))
    }

    /// Takes the upload to a reserved id: `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`.
    pub async fn upload_to<E: std::fmt::Display>(
        &self,
        user_id: &UserId,
        server_name: &ServerName,
        media_id: &str,
        info: FileInfo,
        body: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<(), UploadError> {
        let inner = &self.0;
        if server_name != inner.server_name || !is_media_id(media_id) {
            return Err(UploadError::UnknownId);
        }
        let domain = Domain::Named { kind: "media", id: media_id.to_owned() };
        let seen = inner.store.domain_version(&domain)?;
        inner.check_reserved(user_id, media_id)?;
        inner.check_quota(user_id, 0)?;
        let (written, _pin) = inner.files.write_content(body, inner.config.upload_bytes_max).await?;
        inner.check_quota(user_id, written.size_bytes)?;
        let record = inner.check_reserved(user_id, media_id)?;
        let record = MediaRecord { unused_expires_ms: None, content: Some(content(written, info)), ..record };
        let mut batch = Batch::new();
        batch.guard(domain, seen);
        put_media(&mut batch, &inner.server_name, media_id, &record);
        batch.delete(&PENDING_UPLOADS, &(user_id.to_owned(), media_id.to_owned()));
        match inner.store.commit(batch).await {
            // Only another upload to the same id commits under its domain.
            Err(CommitError::Conflict) => return Err(UploadError::AlreadyUploaded),
            other => other?,
        };
        inner.uploaded.notify_waiters();
        Ok(())
    }

    /// A file to serve, of this server or of another one; fetched from there first if need be. Waits up to `wait` for an upload
    /// that is still to come.
    pub async fn get_file(
        &self,
        server_name: &ServerName,
        media_id: &str,
        access: Access,
        wait: Duration,
    ) -> Result<StoredFile, GetMediaError> {
        if server_name == self.0.server_name {
            return self.get_own_file(media_id, access, wait).await;
        }
        if let Some(file) = self.get_cached_file(server_name, media_id, access).await? {
            return Ok(file);
        }
        // What would be fetched now would be hidden from the old endpoints anyway.
        if access == Access::Legacy && !self.0.config.legacy_unauthenticated {
            return Err(GetMediaError::NotFound);
        }
        let record = self.fetch(server_name, media_id).await.map_err(|error| match *error {
            FetchMediaError::NotFound(_) => GetMediaError::NotFound,
            FetchMediaError::NotYetUploaded => GetMediaError::NotYetUploaded,
            _ => GetMediaError::Remote(error),
        })?;
        self.0.file(record, access)
    }

    /// A file that is here already, of this server or of another one: for `allow_remote=false`.
    pub async fn get_held_file(
        &self,
        server_name: &ServerName,
        media_id: &str,
        access: Access,
        wait: Duration,
    ) -> Result<StoredFile, GetMediaError> {
        if server_name == self.0.server_name {
            return self.get_own_file(media_id, access, wait).await;
        }
        self.get_cached_file(server_name, media_id, access).await?.ok_or(GetMediaError::NotFound)
    }

    /// A file of this server's own media: what other servers may ask for.
    pub async fn get_own_file(
        &self,
        media_id: &str,
        access: Access,
        wait: Duration,
    ) -> Result<StoredFile, GetMediaError> {
        let inner = &self.0;
        check_media_id(media_id)?;
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            // Listening starts before the look, so that an upload in between is not missed.
            let mut uploaded = std::pin::pin!(inner.uploaded.notified());
            uploaded.as_mut().enable();
            let Some(record) = inner.store.get(&MEDIA, &(inner.server_name.clone(), media_id.to_owned()))? else {
                return Err(GetMediaError::NotFound);
            };
            if record.content.is_some() {
                inner.note_seen(&inner.server_name, media_id)?;
                return inner.file(record, access);
            }
            if record.unused_expires_ms.is_some_and(|expires_ms| expires_ms <= inner.clock.now_ms()) {
                return Err(GetMediaError::NotFound);
            }
            if tokio::time::timeout_at(deadline, uploaded).await.is_err() {
                return Err(GetMediaError::NotYetUploaded);
            }
        }
    }

    async fn get_cached_file(
        &self,
        server_name: &ServerName,
        media_id: &str,
        access: Access,
    ) -> Result<Option<StoredFile>, GetMediaError> {
        check_media_id(media_id)?;
        let Some(record) = self.0.store.get(&MEDIA, &(server_name.to_owned(), media_id.to_owned()))? else {
            return Ok(None);
        };
        let file = self.0.file(record, access)?;
        self.0.note_seen(server_name, media_id)?;
        // A copy whose file is gone (an operator made room) is fetched again.
        Ok(tokio::fs::try_exists(&file.path).await?.then_some(file))
    }

    async fn fetch(&self, server_name: &ServerName, media_id: &str) -> Result<MediaRecord, Arc<FetchMediaError>> {
        let this = self.clone();
        let (server, id) = (server_name.to_owned(), media_id.to_owned());
        let fetch = async move { this.fetch_now(&server, &id).await };
        self.0.flights.join(server_name, media_id, self.0.config.remote_time_max, fetch).await
    }

    async fn fetch_now(&self, server_name: &ServerName, media_id: &str) -> Result<MediaRecord, FetchMediaError> {
        let inner = &self.0;
        let internal = |error: &dyn std::fmt::Display| FetchMediaError::Internal(error.to_string());
        let fetched = inner.transport.fetch_media(server_name, media_id).await?;
        let (written, _pin) = inner.files.write_content(fetched.body, inner.config.remote_bytes_max).await.map_err(
            |error| match error {
                WriteError::TooLarge { .. } => FetchMediaError::TooLarge,
                WriteError::Incomplete(cause) => FetchMediaError::Unreachable { server: server_name.to_owned(), cause },
                WriteError::Disk(_) => internal(&error),
            },
        )?;
        let info = FileInfo { content_type: fetched.content_type, filename: fetched.filename };
        let record = inner.record(None, Some(content(written, info)));
        let key = (server_name.to_owned(), media_id.to_owned());
        let mut batch = Batch::new();
        if let Some(earlier) =
            inner.store.get(&MEDIA, &key).map_err(|error| internal(&error))?.and_then(|record| record.content)
        {
            batch.delete(&CONTENT_MEDIA, &(earlier.sha256, key.0.clone(), key.1.clone()));
        }
        put_media(&mut batch, server_name, media_id, &record);
        inner.store.commit(batch).await.map_err(|error| internal(&error))?;
        Ok(record)
    }

    /// A thumbnail of this file, made now if it was not yet. An image smaller than asked is not enlarged.
    pub async fn get_thumbnail(
        &self,
        server_name: &ServerName,
        file: StoredFile,
        width: u32,
        height: u32,
        method: Method,
        animated: Option<bool>,
    ) -> Result<StoredFile, ThumbnailError> {
        let inner = &self.0;
        let limits = inner.config.thumbnails;
        let remote = server_name != inner.server_name;
        let Some(variant) = Variant::covering(width, height, method, animated == Some(true)) else {
            return original(file).await;
        };
        let path = inner.files.thumbnail_path(&file.sha256, &variant.name());
        if !tokio::fs::try_exists(&path).await? {
            if file.size_bytes > limits.source_bytes_max {
                return Err(ThumbnailError::TooLarge { remote });
            }
            let slot = inner.render_slots.clone().acquire_owned().await.map_err(io::Error::other)?;
            // Another request may have made it while this one waited.
            if !tokio::fs::try_exists(&path).await? {
                let source = file.path.clone();
                let render = tokio::task::spawn_blocking(move || {
                    // The slot is held until the work ends, also when nobody waits for it any more.
                    let _slot = slot;
                    let source = io::BufReader::new(std::fs::File::open(source)?);
                    Ok::<_, io::Error>(thumbnails::render(source, &variant, &limits))
                });
                let rendered = match tokio::time::timeout(inner.config.thumbnail_time_max, render).await {
                    Ok(joined) => joined.map_err(io::Error::other)??,
                    Err(_) => return Err(ThumbnailError::TimedOut),
                };
                let bytes = rendered.map_err(|error| match error {
                    RenderError::Unsupported(why) => ThumbnailError::Unsupported(why),
                    RenderError::TooLarge => ThumbnailError::TooLarge { remote },
                })?;
                inner.files.write_thumbnail(&file.sha256, &variant.name(), &bytes).await?;
            }
        }
        let (content_type, size_bytes) = look_at(&path).await?;
        let extension = content_type.strip_prefix("image/").unwrap_or("bin");
        Ok(StoredFile {
            filename: Some(format!("thumbnail.{extension}")),
            content_type: Some(content_type.to_owned()),
            path,
            size_bytes,
            sha256: file.sha256,
        })
    }
}

impl Inner {
    fn record(&self, uploader: Option<OwnedUserId>, content: Option<MediaContent>) -> MediaRecord {
        MediaRecord {
            uploader,
            created_ms: self.clock.now_ms(),
            unused_expires_ms: None,
            authenticated_only: !self.config.legacy_unauthenticated,
            content,
        }
    }

    fn check_reserved(&self, user_id: &UserId, media_id: &str) -> Result<MediaRecord, UploadError> {
        let Some(record) = self.store.get(&MEDIA, &(self.server_name.clone(), media_id.to_owned()))? else {
            return Err(UploadError::UnknownId);
        };
        if record.uploader.as_deref() != Some(user_id) {
            return Err(UploadError::NotOwner);
        }
        if record.content.is_some() {
            return Err(UploadError::AlreadyUploaded);
        }
        if record.unused_expires_ms.is_some_and(|expires_ms| expires_ms <= self.clock.now_ms()) {
            return Err(UploadError::UnknownId);
        }
        Ok(record)
    }

    fn file(&self, record: MediaRecord, access: Access) -> Result<StoredFile, GetMediaError> {
        if access == Access::Legacy && record.authenticated_only {
            return Err(GetMediaError::NotFound);
        }
        let content = record.content.ok_or(GetMediaError::NotFound)?;
        Ok(StoredFile {
            path: self.files.content_path(&content.sha256),
            size_bytes: content.size_bytes,
            sha256: content.sha256,
            content_type: content.content_type,
            filename: content.filename,
        })
    }
}

/// The file itself in place of a thumbnail, if it is an image.
async fn original(file: StoredFile) -> Result<StoredFile, ThumbnailError> {
    let (content_type, _) = look_at(&file.path).await?;
    if !content_type.starts_with("image/") {
        return Err(ThumbnailError::Unsupported("it is not an image".to_owned()));
    }
    Ok(StoredFile { content_type: Some(content_type.to_owned()), ..file })
}

/// An image file's content type, by its first bytes, and its size.
async fn look_at(path: &std::path::Path) -> io::Result<(&'static str, u64)> {
    let mut file = tokio::fs::File::open(path).await?;
    let size_bytes = file.metadata().await?.len();
    let mut head = Vec::new();
    (&mut file).take(16).read_to_end(&mut head).await?;
    Ok((thumbnails::content_type(&head), size_bytes))
}

/// The domain of what a user has uploaded, so that uploads at the same time do not overlook each other's size.
fn uploads_of(user_id: &UserId) -> Domain {
    Domain::Named { kind: "uploads", id: user_id.to_string() }
}

fn put_media(batch: &mut Batch, server_name: &ServerName, media_id: &str, record: &MediaRecord) {
    batch.put(&MEDIA, &(server_name.to_owned(), media_id.to_owned()), record);
    if let Some(content) = &record.content {
        batch.put(&CONTENT_MEDIA, &(content.sha256, server_name.to_owned(), media_id.to_owned()), &());
        if let Some(uploader) = &record.uploader {
            batch.put(&USER_MEDIA, &(uploader.clone(), media_id.to_owned()), &content.size_bytes);
        }
    }
}

fn content(written: WrittenContent, info: FileInfo) -> MediaContent {
    // These come back in headers, so what could not stand there is not kept.
    let content_type = info.content_type.filter(|text| {
        !text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
    });
    let filename = info.filename.filter(|text| !text.is_empty() && text.len() <= 1024);
    MediaContent { sha256: written.sha256, size_bytes: written.size_bytes, content_type, filename }
}

/// 32 letters and digits: about 190 bits, so that an id cannot be guessed.
fn new_media_id() -> String {
    rand::rng().sample_iter(rand::distr::Alphanumeric).take(32).map(char::from).collect()
}

fn mxc_uri(server_name: &ServerName, media_id: &str) -> OwnedMxcUri {
    format!("mxc://{server_name}/{media_id}").into()
}

fn is_media_id(media_id: &str) -> bool {
    (1..=255).contains(&media_id.len())
        && media_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

fn check_media_id(media_id: &str) -> Result<(), GetMediaError> {
    if is_media_id(media_id) { Ok(()) } else { Err(GetMediaError::InvalidId) }
}

#[cfg(test)]
mod tests;
