//! Previews of pages that messages link to (client-server API, content repository, `preview_url`).
//!
//! Users make this server fetch what they like, so everything is bounded: which URLs (patterns, at every redirect), which addresses (the
//! connector's filter, at every redirect), how many bytes, how long, how many at a time. Pages are not rendered and scripts not run;
//! [`page`] reads what a page says of itself. What is found is kept for a while, the image as a medium of this server.

mod image;
mod page;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use chappe_protocol::{clock::Clock, glob::Glob};
use chappe_store::{
    Batch, CommitError, Direction, Store, StoreError,
    tables::media::{PREVIEWS, PreviewRecord},
};
use http::{HeaderValue, header};
use parking_lot::Mutex;
use ruma::OwnedMxcUri;
use serde_json::{Map, Value as JsonValue};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use url::Url;

use self::page::Page;
use crate::{
    connector::{ConnectError, Connector, Request},
    media::{FileInfo, Media, UploadError},
};

/// The longest URL, in bytes.
const URL_BYTES_MAX: usize = 8_192;
/// How many redirects are followed.
const REDIRECTS_MAX: usize = 5;
/// How long fetching a page, or an image of it, may take.
const FETCH_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a request waits in all.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How many previews are made at a time.
const CONCURRENT_MAX: usize = 8;
/// How long the image of an expired preview is kept, as clients still show it, in milliseconds.
const IMAGE_KEPT_MS: u64 = 24 * 3600 * 1000;
/// How often expired previews are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// The longest oEmbed answer, in bytes.
const OEMBED_BYTES_MAX: usize = 256 * 1024;

/// How previews are made.
#[derive(Clone, Debug)]
pub struct PreviewsConfig {
    pub enabled: bool,
    /// URLs that may be fetched, as globs over the whole URL; empty: all.
    pub allow: Vec<Glob>,
    /// URLs that may not.
    pub deny: Vec<Glob>,
    /// How much of a page is read, in bytes.
    pub page_bytes_max: usize,
    /// The largest image kept, in bytes.
    pub image_bytes_max: usize,
    /// How long a preview is used before the page is fetched again.
    pub lifetime: Duration,
}

impl Default for PreviewsConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            allow: Vec::new(),
            deny: Vec::new(),
            page_bytes_max: 1 << 20,
            image_bytes_max: 10 << 20,
            lifetime: Duration::from_secs(3600),
        }
    }
}

/// A page of which there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    #[error("previews are not enabled on this server")]
    Disabled,
    #[error("this is not a URL of a web page")]
    InvalidUrl,
    #[error("this server makes no previews of this URL")]
    NotAllowed,
    #[error("the page could not be fetched: {0}")]
    Fetch(String),
    #[error("making the preview took too long")]
    TimedOut,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

impl From<ConnectError> for PreviewError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::AddressDenied(_) => Self::NotAllowed,
            ConnectError::Timeout => Self::TimedOut,
            other => Self::Fetch(other.to_string()),
        }
    }
}

/// What came from a URL.
struct Fetched {
    /// Where redirects led.
    url: Url,
    content_type: String,
    filename: Option<String>,
    body: Bytes,
    /// There was more than was read.
    is_cut: bool,
}

/// A preview that was made: what it says, and the image that was kept for it.
struct Made {
    json: String,
    image: Option<OwnedMxcUri>,
}

/// Makes and keeps previews; a cheap handle.
#[derive(Clone)]
pub struct Previews(Arc<Inner>);

struct Inner {
    config: PreviewsConfig,
    connector: Connector,
    media: Media,
    store: Store,
    clock: Arc<dyn Clock>,
    slots: Semaphore,
    /// One lock for each URL that is being fetched, so that it is fetched once.
    under_way: Mutex<HashMap<[u8; 32], Arc<tokio::sync::Mutex<()>>>>,
}

impl Previews {
    pub fn new(
        config: PreviewsConfig,
        connector: Connector,
        media: Media,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Arc::new(Inner {
            config,
            connector,
            media,
            store,
            clock,
            slots: Semaphore::new(CONCURRENT_MAX),
            under_way: Mutex::default(),
        }))
    }

    /// The preview of a page as JSON text: Open Graph properties, with the image as an `mxc://` URI.
    pub async fn get_preview(&self, url: &str) -> Result<String, PreviewError> {
        let inner = &self.0;
        if !inner.config.enabled {
            return Err(PreviewError::Disabled);
        }
        let mut url = (url.len() <= URL_BYTES_MAX).then(|| Url::parse(url).ok()).flatten();
        if let Some(url) = &mut url {
            // Which part of the page is meant makes no difference.
            url.set_fragment(None);
        }
        let url = url.filter(|url| url.has_host()).ok_or(PreviewError::InvalidUrl)?;
        inner.check_allowed(&url)?;
        let key: [u8; 32] = Sha256::digest(url.as_str().as_bytes()).into();
        if let Some(kept) = inner.get_kept(&key)? {
            return Ok(kept);
        }
        let this = self.clone();
        // On its own: others may be waiting for it when this client has gone.
        let making = tokio::spawn(async move { this.make_once(key, url).await });
        match tokio::time::timeout(WAIT_MAX, making).await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => Err(PreviewError::Fetch(error.to_string())),
            Err(_) => Err(PreviewError::TimedOut),
        }
    }

    async fn make_once(&self, key: [u8; 32], url: Url) -> Result<String, PreviewError> {
        let inner = &self.0;
        let lock = inner.under_way.lock().entry(key).or_default().clone();
        let result = {
            let _alone = lock.lock().await;
            match inner.get_kept(&key)? {
                Some(kept) => Ok(kept),
                None => inner.make_and_keep(key, &url).await,
            }
        };
        let mut under_way = inner.under_way.lock();
        // The map's and this one: nobody waits for it.
        if Arc::strong_count(&lock) <= 2 {
            under_way.remove(&key);
        }
        result
    }

    /// Deletes expired previews from time to time, for as long as the server runs.
    pub async fn run(self) {
        loop {
            if let Err(error) = self.delete_expired().await {
                tracing::error!(%error, "expired previews could not be deleted");
            }
            tokio::time::sleep(SWEEP_EVERY).await;
        }
    }

    /// Deletes previews that expired a while ago, with their images; says how many.
    pub async fn delete_expired(&self) -> Result<usize, CommitError> {
        let inner = &self.0;
        let before_ms = inner.clock.now_ms().saturating_sub(IMAGE_KEPT_MS);
        let mut expired = Vec::new();
        for row in inner.store.scan(&PREVIEWS, &(), Direction::Forward) {
            let (key, record) = row?;
            if record.expires_ms < before_ms {
                expired.push((key, record));
            }
        }
        for (key, record) in &expired {
            if let Some(image) = &record.image {
                inner.media.delete(inner.media.server_name(), image).await?;
            }
            let mut batch = Batch::new();
            batch.delete(&PREVIEWS, key);
            inner.store.commit(batch).await?;
        }
        Ok(expired.len())
    }
}

impl Inner {
    fn get_kept(&self, key: &[u8; 32]) -> Result<Option<String>, StoreError> {
        let kept = self.store.get(&PREVIEWS, key)?.filter(|kept| kept.expires_ms > self.clock.now_ms());
        Ok(kept.map(|kept| kept.json))
    }

    async fn make_and_keep(&self, key: [u8; 32], url: &Url) -> Result<String, PreviewError> {
        let _slot = self.slots.acquire().await.map_err(|error| PreviewError::Fetch(error.to_string()))?;
        let Made { json, image } = self.make(url).await?;
        let lifetime_ms = u64::try_from(self.config.lifetime.as_millis()).unwrap_or(u64::MAX);
        let record = PreviewRecord {
            expires_ms: self.clock.now_ms().saturating_add(lifetime_ms),
            json: json.clone(),
            image: image.and_then(|uri| uri.media_id().ok().map(str::to_owned)),
        };
        let earlier = self.store.get(&PREVIEWS, &key)?.and_then(|earlier| earlier.image);
        let mut batch = Batch::new();
        batch.put(&PREVIEWS, &key, &record);
        self.store.commit(batch).await?;
        if let Some(earlier) = earlier {
            self.media.delete(self.media.server_name(), &earlier).await?;
        }
        Ok(json)
    }

    async fn make(&self, url: &Url) -> Result<Made, PreviewError> {
        let fetched = self.fetch(url, "text/html,application/xhtml+xml,image/*;q=0.9,*/*;q=0.5", |content_type| {
            if content_type.starts_with("image/") { self.config.image_bytes_max } else { self.config.page_bytes_max }
        });
        let fetched = fetched.await?;
        let mut preview = Map::new();
        let mut image = None;
        if fetched.content_type.starts_with("image/") {
            preview.insert("og:title".to_owned(), title_of_file(&fetched).into());
            if !fetched.is_cut {
                image = self.keep_image(&fetched, &mut preview).await;
            }
        } else if page::is_page(&fetched.content_type) {
            let text = page::decode(&fetched.body, &fetched.content_type);
            let mut page = page::read(&text);
            self.embed(&fetched.url, &mut page).await;
            image = self.fetch_image(&fetched.url, &page, &mut preview).await;
            preview.extend(page.into_properties());
        } else {
            preview.insert("og:title".to_owned(), title_of_file(&fetched).into());
        }
        Ok(Made { json: JsonValue::Object(preview).to_string(), image })
    }

    /// Asks what a page names as its oEmbed description for what the page does not say itself.
    async fn embed(&self, base: &Url, page: &mut Page) {
        let Some(url) = page.oembed.as_ref().and_then(|link| base.join(link).ok()) else { return };
        let Ok(fetched) = self.fetch(&url, "application/json", |_| OEMBED_BYTES_MAX).await else { return };
        if let Ok(JsonValue::Object(described)) = serde_json::from_slice(&fetched.body) {
            page.add_oembed(&described);
        }
    }

    /// Fetches and keeps the first of a page's images that is one.
    async fn fetch_image(&self, base: &Url, page: &Page, preview: &mut Map<String, JsonValue>) -> Option<OwnedMxcUri> {
        for link in page.images() {
            let Ok(url) = base.join(link) else { continue };
            match self.fetch(&url, "image/*", |_| self.config.image_bytes_max).await {
                Ok(fetched) if !fetched.is_cut => {
                    if let Some(uri) = self.keep_image(&fetched, preview).await {
                        return Some(uri);
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the image of a page could not be fetched"),
            }
        }
        None
    }

    async fn keep_image(&self, fetched: &Fetched, preview: &mut Map<String, JsonValue>) -> Option<OwnedMxcUri> {
        let shape = image::look_at(&fetched.body)?;
        let info = FileInfo { content_type: Some(shape.content_type.to_owned()), filename: fetched.filename.clone() };
        let uri = match self.media.keep(info, fetched.body.clone()).await {
            Ok(uri) => uri,
            Err(UploadError::TooLarge { .. }) => return None,
            Err(error) => {
                tracing::warn!(%error, "the image of a preview was not kept");
                return None;
            }
        };
        preview.insert("og:image".to_owned(), uri.as_str().into());
        preview.insert("og:image:type".to_owned(), shape.content_type.into());
        preview.insert("og:image:width".to_owned(), shape.width.into());
        preview.insert("og:image:height".to_owned(), shape.height.into());
        preview.insert("matrix:image:size".to_owned(), fetched.body.len().into());
        Some(uri)
    }

    fn check_allowed(&self, url: &Url) -> Result<(), PreviewError> {
        let is_plain =
            matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
        if !is_plain {
            return Err(PreviewError::InvalidUrl);
        }
        let matches = |patterns: &[Glob]| patterns.iter().any(|pattern| pattern.matches(url.as_str()));
        let is_allowed = self.config.allow.is_empty() || matches(&self.config.allow);
        if is_allowed && !matches(&self.config.deny) { Ok(()) } else { Err(PreviewError::NotAllowed) }
    }

    /// Fetches up to as many bytes as `bytes_max` says for the content type. Every redirect is checked as the first URL was.
    async fn fetch(
        &self,
        url: &Url,
        accept: &'static str,
        bytes_max: impl Fn(&str) -> usize,
    ) -> Result<Fetched, PreviewError> {
        tokio::time::timeout(FETCH_TIME_MAX, async {
            let mut url = url.clone();
            for _ in 0..=REDIRECTS_MAX {
                self.check_allowed(&url)?;
                let mut request = Request::get(url.clone());
                request.headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
                request.headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("en"));
                let mut response = self.connector.send(request).await?;
                let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
                if let (true, Some(location)) = (response.status().is_redirection(), location) {
                    url = url.join(location).map_err(|error| PreviewError::Fetch(error.to_string()))?;
                    continue;
                }
                if !response.status().is_success() {
                    return Err(PreviewError::Fetch(format!("status {}", response.status().as_u16())));
                }
                let text = |name: header::HeaderName| {
                    response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
                };
                let content_type = text(header::CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
                let filename = text(header::CONTENT_DISPOSITION)
                    .and_then(|text| text.parse::<ruma::http_headers::ContentDisposition>().ok())
                    .and_then(|disposition| disposition.filename);
                let limit = bytes_max(&content_type);
                let (mut body, mut is_cut) = (BytesMut::new(), false);
                while let Some(chunk) = response.chunk().await? {
                    let left = limit.saturating_sub(body.len());
                    body.extend_from_slice(chunk.get(..left).unwrap_or(&chunk));
                    if chunk.len() > left {
                        is_cut = true;
                        break;
                    }
                }
                return Ok(Fetched { url, content_type, filename, body: body.freeze(), is_cut });
            }
            Err(PreviewError::Fetch(format!("more than {REDIRECTS_MAX} redirects")))
        })
        .await
        .unwrap_or(Err(PreviewError::TimedOut))
    }
}

/// What a file is called that is not a page: as its server says, else as its URL ends.
fn title_of_file(fetched: &Fetched) -> String {
    let last =
        fetched.url.path_segments().and_then(|mut segments| segments.next_back()).filter(|last| !last.is_empty());
    let named = fetched.filename.as_deref().or(last).or(fetched.url.host_str()).unwrap_or_default();
    page::shorten(named, page::TITLE_CHARS_MAX)
}
