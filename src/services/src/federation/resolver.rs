//! From a Matrix server name to the URL its requests go to.
//!
//! This decides by the name and by `.well-known`; SRV records and the default port are looked up by the connector when it opens
//! a connection ([`HostMeaning::MatrixServer`]), so they are never staler than DNS itself. Answers of `.well-known` are kept
//! as long as they may be.
//!
//! The URL's host is the name the certificate must bear, and its authority the `Host` header, as the specification's table
//! wants; only for address literals without a port the header differs from the URL.

use std::{sync::Arc, time::Duration};

use chappe_protocol::clock::Clock;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use url::Url;

use crate::connector::{ConnectError, Connector, HostMeaning, Request, dns::DEFAULT_FEDERATION_PORT};

/// The largest `.well-known` document that is read, in bytes.
const WELL_KNOWN_BYTES_MAX: usize = 50 * 1024;
const WELL_KNOWN_REDIRECTS_MAX: usize = 5;
const WELL_KNOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a document is kept that does not say.
const FOUND_DEFAULT: Duration = Duration::from_secs(24 * 3600);
const FOUND_MAX: Duration = Duration::from_secs(48 * 3600);
const FOUND_MIN: Duration = Duration::from_secs(300);
/// How long "there is none" is kept.
const ABSENT: Duration = Duration::from_secs(3600);
/// How long it is kept that the document could not be asked for.
const UNREACHABLE: Duration = Duration::from_secs(120);
const CACHE_SIZE: usize = 10_000;

/// Where the requests for one server go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// `https://host` or `https://host:port`, without a path.
    pub base: Url,
    /// What the host of `base` means to the connector.
    pub host_meaning: HostMeaning,
    /// The `Host` header.
    pub host_header: String,
}

impl Destination {
    /// The `Host` header where it is not the authority of the URL: an address literal without a port.
    pub fn host_override(&self) -> Option<&str> {
        let is_literal = !matches!(self.base.host(), Some(url::Host::Domain(_)) | None);
        (is_literal && self.base.host_str() == Some(&self.host_header)).then_some(&self.host_header)
    }
}

/// Why a server name leads nowhere.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {server}: {reason}")]
pub struct ResolveError {
    pub server: OwnedServerName,
    pub reason: String,
}

/// Where `.well-known` documents come from: the connector, or a test.
pub trait WellKnownSource: Send + Sync + 'static {
    fn fetch_well_known<'a>(
        &'a self,
        host: &'a str,
    ) -> std::pin::Pin<Box<dyn Future<Output = WellKnownAnswer> + Send + 'a>>;
}

/// What asking for `.well-known/matrix/server` gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WellKnownAnswer {
    /// A server name to use instead, for this long.
    Delegated { to: OwnedServerName, keep: Duration },
    /// The host answered, but not with a usable document.
    Absent,
    /// The host did not answer.
    Unreachable,
}

#[derive(Clone)]
struct Cached {
    delegated_to: Option<OwnedServerName>,
    /// Milliseconds since the epoch.
    expires_ms: u64,
}

/// Resolves server names. Cheap to clone.
#[derive(Clone)]
pub struct Resolver {
    source: Arc<dyn WellKnownSource>,
    clock: Arc<dyn Clock>,
    cache: Arc<Mutex<LruCache<String, Cached>>>,
}

impl Resolver {
    pub fn new(source: Arc<dyn WellKnownSource>, clock: Arc<dyn Clock>) -> Self {
        let size = std::num::NonZeroUsize::new(CACHE_SIZE).unwrap_or(std::num::NonZeroUsize::MIN);
        Self { source, clock, cache: Arc::new(Mutex::new(LruCache::new(size))) }
    }

    /// Where requests for `server` go.
    ///
    /// Spec: Server-Server API, Resolving server names.
    pub async fn resolve(&self, server: &ServerName) -> Result<Destination, ResolveError> {
        if server.is_ip_literal() || server.port().is_some() {
            return direct(server);
        }
        // A delegated name is not looked up in .well-known again.
        match self.delegated(server.host()).await {
            Some(delegated) => direct(&delegated),
            None => direct(server),
        }
    }

    /// Looks a server up anew next time: called when it cannot be reached, in case it has moved.
    pub fn expire(&self, server: &ServerName) {
        if let Some(cached) = self.cache.lock().get_mut(server.host()) {
            cached.expires_ms = 0;
        }
    }

    async fn delegated(&self, host: &str) -> Option<OwnedServerName> {
        let cached = self.cache.lock().get(host).cloned();
        if let Some(cached) = cached
            && cached.expires_ms > self.clock.now_ms()
        {
            return cached.delegated_to;
        }
        let (delegated_to, keep) = match self.source.fetch_well_known(host).await {
            WellKnownAnswer::Delegated { to, keep } => (Some(to), keep.clamp(FOUND_MIN, FOUND_MAX)),
            WellKnownAnswer::Absent => (None, ABSENT),
            WellKnownAnswer::Unreachable => {
                // A document that was there a moment ago outlives a short outage of the web server that holds it.
                let stale = self.cache.lock().get(host).and_then(|cached| cached.delegated_to.clone());
                (stale, UNREACHABLE)
            }
        };
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        let cached =
            Cached { delegated_to: delegated_to.clone(), expires_ms: self.clock.now_ms().saturating_add(keep_ms) };
        self.cache.lock().put(host.to_owned(), cached);
        delegated_to
    }
}

/// The destination of a name that needs no `.well-known`.
fn direct(server: &ServerName) -> Result<Destination, ResolveError> {
    let failed = |reason: String| ResolveError { server: server.to_owned(), reason };
    let host = server.host();
    let (authority, host_meaning) = match server.port() {
        Some(port) => (format!("{host}:{port}"), HostMeaning::Host),
        None if server.is_ip_literal() => (format!("{host}:{DEFAULT_FEDERATION_PORT}"), HostMeaning::Host),
        None => (host.to_owned(), HostMeaning::MatrixServer),
    };
    let base = Url::parse(&format!("https://{authority}")).map_err(|error| failed(error.to_string()))?;
    Ok(Destination { base, host_meaning, host_header: server.as_str().to_owned() })
}

impl WellKnownSource for Connector {
    fn fetch_well_known<'a>(
        &'a self,
        host: &'a str,
    ) -> std::pin::Pin<Box<dyn Future<Output = WellKnownAnswer> + Send + 'a>> {
        Box::pin(async move {
            let answer = tokio::time::timeout(WELL_KNOWN_TIMEOUT, fetch_well_known(self, host)).await;
            match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(ConnectError::TooLarge { .. } | ConnectError::TooManyRedirects(_) | ConnectError::Url(_))) => {
                    WellKnownAnswer::Absent
                }
                Ok(Err(error)) => {
                    tracing::debug!(host, %error, "no .well-known/matrix/server");
                    WellKnownAnswer::Unreachable
                }
                Err(_) => WellKnownAnswer::Unreachable,
            }
        })
    }
}

async fn fetch_well_known(connector: &Connector, host: &str) -> Result<WellKnownAnswer, ConnectError> {
    let url = Url::parse(&format!("https://{host}/.well-known/matrix/server"))
        .map_err(|error| ConnectError::Url(error.to_string()))?;
    let request = Request { timeout: Some(WELL_KNOWN_TIMEOUT), ..Request::get(url) };
    let response =
        connector.send_following(request, WELL_KNOWN_REDIRECTS_MAX).await?.capped(WELL_KNOWN_BYTES_MAX).await?;
    if response.status.is_server_error() {
        return Ok(WellKnownAnswer::Unreachable);
    }
    if response.status != StatusCode::OK {
        return Ok(WellKnownAnswer::Absent);
    }
    Ok(read_document(&response.body, &response.headers))
}

fn read_document(body: &[u8], headers: &HeaderMap) -> WellKnownAnswer {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "m.server")]
        server: String,
    }
    let Ok(document) = serde_json::from_slice::<Document>(body) else { return WellKnownAnswer::Absent };
    let Ok(to) = OwnedServerName::try_from(document.server) else { return WellKnownAnswer::Absent };
    WellKnownAnswer::Delegated { to, keep: lifetime(headers) }
}

/// How long a document may be kept: `Cache-Control`, or the default.
fn lifetime(headers: &HeaderMap) -> Duration {
    let directives = headers.get_all(header::CACHE_CONTROL);
    let mut words =
        directives.iter().filter_map(|value: &HeaderValue| value.to_str().ok()).flat_map(|text| text.split(','));
    let mut keep = FOUND_DEFAULT;
    for word in words.by_ref() {
        let word = word.trim().to_ascii_lowercase();
        if matches!(word.as_str(), "no-store" | "no-cache") {
            return FOUND_MIN;
        }
        if let Some(seconds) = word.strip_prefix("max-age=").and_then(|text| text.trim_matches('"').parse().ok()) {
            keep = Duration::from_secs(seconds);
        }
    }
    keep
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use chappe_protocol::clock::ManualClock;

    use super::*;

    #[derive(Default)]
    struct FakeWeb {
        documents: Mutex<HashMap<&'static str, WellKnownAnswer>>,
        asked: AtomicUsize,
    }

    impl WellKnownSource for FakeWeb {
        fn fetch_well_known<'a>(
            &'a self,
            host: &'a str,
        ) -> std::pin::Pin<Box<dyn Future<Output = WellKnownAnswer> + Send + 'a>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let answer = self.documents.lock().get(host).cloned().unwrap_or(WellKnownAnswer::Absent);
            Box::pin(async move { answer })
        }
    }

    fn delegation(to: &str) -> WellKnownAnswer {
        WellKnownAnswer::Delegated { to: to.try_into().expect("a server name"), keep: Duration::from_secs(3600) }
    }

    async fn resolved(web: FakeWeb, name: &str) -> (String, HostMeaning, String) {
        let resolver = Resolver::new(Arc::new(web), Arc::new(ManualClock::new(1)));
        let destination = resolver.resolve(name.try_into().expect("a server name")).await.expect("a destination");
        (destination.base.as_str().to_owned(), destination.host_meaning, destination.host_header)
    }

    #[tokio::test]
    async fn each_form_of_server_name_goes_where_the_specification_says() {
        use HostMeaning::{Host, MatrixServer};
        for (name, document, base, meaning, header) in [
            ("1.2.3.4", None, "https://1.2.3.4:8448/", Host, "1.2.3.4"),
            ("1.2.3.4:99", None, "https://1.2.3.4:99/", Host, "1.2.3.4:99"),
            ("[::1]:99", None, "https://[::1]:99/", Host, "[::1]:99"),
            ("hs.example:99", Some("other.example"), "https://hs.example:99/", Host, "hs.example:99"),
            ("hs.example", None, "https://hs.example/", MatrixServer, "hs.example"),
            ("hs.example", Some("other.example"), "https://other.example/", MatrixServer, "other.example"),
            ("hs.example", Some("other.example:99"), "https://other.example:99/", Host, "other.example:99"),
            ("hs.example", Some("1.2.3.4"), "https://1.2.3.4:8448/", Host, "1.2.3.4"),
        ] {
            let web = FakeWeb::default();
            if let Some(to) = document {
                web.documents.lock().insert("hs.example", delegation(to));
            }
            assert_eq!(resolved(web, name).await, (base.to_owned(), meaning, header.to_owned()), "{name} {document:?}");
        }
    }

    #[tokio::test]
    async fn well_known_is_asked_once_and_survives_a_short_outage() {
        let web = Arc::new(FakeWeb::default());
        web.documents.lock().insert("hs.example", delegation("other.example:1"));
        let clock = Arc::new(ManualClock::new(1));
        let resolver = Resolver::new(web.clone(), clock.clone());
        let name = ruma::server_name!("hs.example");
        let first = resolver.resolve(name).await.expect("a destination");
        assert_eq!(resolver.resolve(name).await.expect("a destination"), first);
        assert_eq!(web.asked.load(Ordering::SeqCst), 1);

        web.documents.lock().insert("hs.example", WellKnownAnswer::Unreachable);
        clock.advance(2 * 3_600_000);
        assert_eq!(resolver.resolve(name).await.expect("a destination"), first);
        assert_eq!(web.asked.load(Ordering::SeqCst), 2);

        web.documents.lock().insert("hs.example", WellKnownAnswer::Absent);
        clock.advance(3_600_000);
        assert_ne!(resolver.resolve(name).await.expect("a destination"), first);
    }

    #[test]
    fn well_known_document_says_how_long_it_is_good() {
        let mut headers = HeaderMap::new();
        assert_eq!(
            read_document(br#"{"m.server":"a.example:1"}"#, &headers),
            WellKnownAnswer::Delegated { to: "a.example:1".try_into().expect("a server name"), keep: FOUND_DEFAULT }
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=600"));
        assert_eq!(lifetime(&headers), Duration::from_secs(600));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        assert_eq!(lifetime(&headers), FOUND_MIN);
    }

    #[test]
    fn malformed_well_known_counts_as_none() {
        for body in ["", "[]", "{}", r#"{"m.server":1}"#, r#"{"m.server":"not a name"}"#] {
            assert_eq!(read_document(body.as_bytes(), &HeaderMap::new()), WellKnownAnswer::Absent, "{body}");
        }
    }
}
