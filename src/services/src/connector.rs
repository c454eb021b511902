//! The one way out: every outgoing HTTP request of the server goes through [`Connector`].
//!
//! It looks names up itself (hosts file, then DNS) and hands the HTTP client only addresses that may be connected to, so the
//! address that was checked is the address that is used. It follows no redirect by itself, uses no proxy, and reads no response
//! without a limit. It does not know Matrix: which server may be talked to is decided in [`crate::policy`], and which host and
//! port stand for a server name in [`crate::federation::resolver`].

pub mod address;
pub mod dns;

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use parking_lot::{Mutex, RwLock};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Url;

use self::{
    address::AddressFilter,
    dns::{Dns, DnsError, SystemDns},
};
use crate::secret::Secret;

/// What the connector needs to know, in plain values.
#[derive(Clone, Debug)]
pub struct ConnectorConfig {
    /// PEM texts of additional trusted root certificates.
    pub extra_roots: Vec<Vec<u8>>,
    /// PEM text of the certificate and the key that servers are shown which ask for one.
    pub identity: Option<Secret>,
    /// Networks that may be connected to although they are refused by default (private, loopback and the like).
    pub allow_networks: Vec<IpNet>,
    /// How long a TCP and TLS handshake may take.
    pub connect_timeout: Duration,
    /// How long a request may take in all where the caller does not say.
    pub request_timeout: Duration,
    /// The `User-Agent` header.
    pub user_agent: String,
}

impl Default for ConnectorConfig {
    fn default() -> Self {
        Self {
            extra_roots: Vec::new(),
            identity: None,
            allow_networks: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            user_agent: concat!("Chappe/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Why the connector could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorBuildError {
    #[error("an extra root certificate is not PEM: {0}")]
    Root(#[source] reqwest::Error),
    #[error("the client certificate and its key cannot be used: {0}")]
    Identity(#[source] reqwest::Error),
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[source] reqwest::Error),
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("not a URL that can be requested: {0}")]
    Url(String),
    #[error("the address {0} is not one this server connects to")]
    AddressDenied(IpAddr),
    #[error("name lookup: {0}")]
    Dns(String),
    #[error("timed out")]
    Timeout,
    #[error("{0}")]
    Transport(String),
    #[error("the response is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("more than {0} redirects")]
    TooManyRedirects(usize),
}

impl ConnectError {
    fn of(error: &reqwest::Error) -> Self {
        // Our own errors travel inside the client's: take them out again.
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut deepest = error.to_string();
        while let Some(cause) = source {
            if let Some(denied) = cause.downcast_ref::<DnsError>() {
                return match denied {
                    DnsError::Denied(address) => Self::AddressDenied(*address),
                    other => Self::Dns(other.to_string()),
                };
            }
            deepest = cause.to_string();
            source = cause.source();
        }
        if error.is_timeout() { Self::Timeout } else { Self::Transport(deepest) }
    }
}

/// How the host of a URL is turned into addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostMeaning {
    /// A host name as everywhere on the web: A and AAAA records, and the URL's port.
    Host,
    /// A Matrix server name without a port, in a URL without a port: SRV records, else port 8448 of the host.
    MatrixServer,
}

/// A response whose body has not been read yet.
pub struct Response {
    inner: reqwest::Response,
}

/// A response with its body, which is no larger than was asked for.
#[derive(Clone, Debug)]
pub struct CappedResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Response {
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// The next piece of the body; `None` at its end. The caller keeps count.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ConnectError> {
        self.inner.chunk().await.map_err(|error| ConnectError::of(&error))
    }

    /// Reads the body, up to `limit` bytes.
    pub async fn capped(mut self, limit: usize) -> Result<CappedResponse, ConnectError> {
        let announced = self.inner.content_length().unwrap_or_default();
        if announced > limit as u64 {
            return Err(ConnectError::TooLarge { limit });
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > limit {
                return Err(ConnectError::TooLarge { limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(CappedResponse { status: self.status(), headers: self.headers().clone(), body: body.freeze() })
    }
}

/// A request to send. Build it with [`Request::get`] or [`Request::new`].
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<Bytes>,
    /// `None`: the configured default.
    pub timeout: Option<Duration>,
    pub host_meaning: HostMeaning,
}

impl Request {
    pub fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: None, timeout: None, host_meaning: HostMeaning::Host }
    }

    pub fn get(url: Url) -> Self {
        Self::new(Method::GET, url)
    }
}

/// The outbound connector. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    clients: Arc<RwLock<Clients>>,
    /// What the clients are built of.
    config: Arc<Mutex<ConnectorConfig>>,
    dns: Arc<dyn Dns>,
    filter: Arc<AddressFilter>,
    /// The only schemes, hosts and ports that requests may go to, if they are limited to some.
    origins: Option<Arc<Vec<url::Origin>>>,
    request_timeout: Duration,
}

#[derive(Clone)]
struct Clients {
    by_host: reqwest::Client,
    by_matrix_server: reqwest::Client,
}

impl Clients {
    fn build(
        config: &ConnectorConfig,
        dns: &Arc<dyn Dns>,
        filter: &Arc<AddressFilter>,
    ) -> Result<Self, ConnectorBuildError> {
        let mut roots = Vec::new();
        for pem in &config.extra_roots {
            roots.extend(reqwest::Certificate::from_pem_bundle(pem).map_err(ConnectorBuildError::Root)?);
        }
        let identity =
            config.identity.as_ref().map(|identity| reqwest::Identity::from_pem(identity.expose().as_bytes()));
        let identity = identity.transpose().map_err(ConnectorBuildError::Identity)?;
        let build = |host_meaning| {
            let hook = Hook { dns: dns.clone(), filter: filter.clone(), host_meaning };
            build_client(config, &roots, identity.clone(), hook)
        };
        Ok(Self { by_host: build(HostMeaning::Host)?, by_matrix_server: build(HostMeaning::MatrixServer)? })
    }
}

impl Connector {
    /// Builds the connector over the system's hosts file and name servers.
    pub fn new(config: ConnectorConfig) -> Result<Self, ConnectorBuildError> {
        Self::with_dns(config, Arc::new(SystemDns::new()))
    }

    /// Builds the connector over another source of names: for tests and simulation.
    pub fn with_dns(config: ConnectorConfig, dns: Arc<dyn Dns>) -> Result<Self, ConnectorBuildError> {
        let filter = Arc::new(AddressFilter::new(config.allow_networks.clone()));
        Ok(Self {
            clients: Arc::new(RwLock::new(Clients::build(&config, &dns, &filter)?)),
            filter,
            origins: None,
            request_timeout: config.request_timeout,
            config: Arc::new(Mutex::new(config)),
            dns,
        })
    }

    /// Shows servers another certificate from now on, in this handle and all clones of it. Connections that are open for a request end
    /// with it; if the certificate is the same as before, nothing happens.
    pub fn replace_identity(&self, identity: Option<Secret>) -> Result<(), ConnectorBuildError> {
        let mut config = self.config.lock();
        if config.identity.as_ref().map(Secret::expose) == identity.as_ref().map(Secret::expose) {
            return Ok(());
        }
        let replaced = ConnectorConfig { identity, ..config.clone() };
        *self.clients.write() = Clients::build(&replaced, &self.dns, &self.filter)?;
        *config = replaced;
        Ok(())
    }

    /// Builds a connector that reaches the scheme, host and port of these URLs whatever their addresses are, and nothing else: for what
    /// the operator names, which may well be in their own network.
    pub fn for_origins<'a>(
        config: ConnectorConfig,
        urls: impl IntoIterator<Item = &'a Url>,
    ) -> Result<Self, ConnectorBuildError> {
        let everywhere = [IpNet::from(Ipv4Net::default()), IpNet::from(Ipv6Net::default())];
        let config = ConnectorConfig { allow_networks: everywhere.to_vec(), ..config };
        let origins = urls.into_iter().map(Url::origin).collect();
        Ok(Self { origins: Some(Arc::new(origins)), ..Self::new(config)? })
    }

    /// Sends a request and returns when the response's head is there. No redirect is followed. The timeout covers the body.
    pub async fn send(&self, request: Request) -> Result<Response, ConnectError> {
        self.check_url(&request.url)?;
        let Clients { by_host, by_matrix_server } = self.clients.read().clone();
        let client = match request.host_meaning {
            HostMeaning::Host => by_host,
            HostMeaning::MatrixServer => by_matrix_server,
        };
        let mut builder = client
            .request(request.method, request.url)
            .headers(request.headers)
            .timeout(request.timeout.unwrap_or(self.request_timeout));
        if let Some(body) = request.body {
            builder = builder.body(body);
        }
        builder.send().await.map(|inner| Response { inner }).map_err(|error| ConnectError::of(&error))
    }

    /// Sends a request and reads its body, up to `limit` bytes.
    pub async fn fetch_capped(&self, request: Request, limit: usize) -> Result<CappedResponse, ConnectError> {
        self.send(request).await?.capped(limit).await
    }

    /// Sends a GET and follows up to `redirects` redirects by hand, so that each hop's address is checked. Only from https to
    /// https, or from http to anything. The request's headers are not repeated to another host.
    pub async fn send_following(&self, request: Request, redirects: usize) -> Result<Response, ConnectError> {
        self.send_following_where(request, redirects, |_| true).await
    }

    /// The same, but only to URLs that `admits` says yes to; the first one is not asked about.
    pub async fn send_following_where(
        &self,
        request: Request,
        redirects: usize,
        admits: impl Fn(&Url) -> bool,
    ) -> Result<Response, ConnectError> {
        let mut request = request;
        for _ in 0..=redirects {
            let url = request.url.clone();
            let next = Request { ..request.clone() };
            let response = self.send(request).await?;
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let (true, Some(location)) = (response.status().is_redirection(), location) else {
                return Ok(response);
            };
            let target = url.join(location).map_err(|error| ConnectError::Url(error.to_string()))?;
            if url.scheme() == "https" && target.scheme() != "https" {
                return Err(ConnectError::Url(format!("redirect from https to {}", target.scheme())));
            }
            let same_host = url.host_str() == target.host_str() && url.port() == target.port();
            if !same_host && !admits(&target) {
                let host = target.host_str().unwrap_or_default();
                return Err(ConnectError::Url(format!("redirect to {host}, which may not be asked")));
            }
            let headers = if same_host { next.headers } else { HeaderMap::new() };
            // What a redirect names is a plain URL, whatever the first one was.
            let host_meaning = if same_host { next.host_meaning } else { HostMeaning::Host };
            request = Request { url: target, headers, host_meaning, ..next };
        }
        Err(ConnectError::TooManyRedirects(redirects))
    }

    /// Refuses URLs that are not http(s), and literal addresses that may not be connected to: those never reach the name lookup.
    fn check_url(&self, url: &Url) -> Result<(), ConnectError> {
        if !matches!(url.scheme(), "https" | "http") {
            return Err(ConnectError::Url(format!("scheme {}", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ConnectError::Url("credentials in the URL".to_owned()));
        }
        if let Some(origins) = &self.origins
            && !origins.contains(&url.origin())
        {
            return Err(ConnectError::Url("not one of the configured hosts".to_owned()));
        }
        let address = match url.host() {
            None => return Err(ConnectError::Url("no host".to_owned())),
            Some(url::Host::Domain(_)) => return Ok(()),
            Some(url::Host::Ipv4(address)) => IpAddr::V4(address),
            Some(url::Host::Ipv6(address)) => IpAddr::V6(address),
        };
        if self.filter.allows(address) { Ok(()) } else { Err(ConnectError::AddressDenied(address)) }
    }
}

fn build_client(
    config: &ConnectorConfig,
    roots: &[reqwest::Certificate],
    identity: Option<reqwest::Identity>,
    hook: Hook,
) -> Result<reqwest::Client, ConnectorBuildError> {
    let builder = |hook: Hook| {
        let builder = match &identity {
            Some(identity) => reqwest::Client::builder().identity(identity.clone()),
            None => reqwest::Client::builder(),
        };
        builder
            .user_agent(config.user_agent.clone())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(90))
            .pool_max_idle_per_host(4)
            .tcp_keepalive(Duration::from_secs(60))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_keep_alive_timeout(Duration::from_secs(20))
            .dns_resolver(Arc::new(hook))
    };
    let merged = builder(hook.clone()).tls_certs_merge(roots.iter().cloned()).build();
    match merged {
        Err(error) if roots.is_empty() => {
            // A system without any root certificate: plain HTTP still works, and every TLS handshake fails with a clear reason.
            tracing::warn!(%error, "no trusted root certificates on this system: no TLS server will be trusted");
            builder(hook).tls_certs_only([]).build().map_err(ConnectorBuildError::Client)
        }
        other => other.map_err(ConnectorBuildError::Client),
    }
}

/// What the HTTP client asks for the addresses of a host.
#[derive(Clone)]
struct Hook {
    dns: Arc<dyn Dns>,
    filter: Arc<AddressFilter>,
    host_meaning: HostMeaning,
}

impl Resolve for Hook {
    fn resolve(&self, name: Name) -> Resolving {
        let hook = self.clone();
        Box::pin(async move {
            let found = match hook.host_meaning {
                HostMeaning::Host => dns::host_addresses(hook.dns.as_ref(), name.as_str(), 0).await,
                HostMeaning::MatrixServer => dns::matrix_server_addresses(hook.dns.as_ref(), name.as_str()).await,
            };
            let allowed = found.and_then(|addresses| hook.filter.keep_allowed(addresses))?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;
