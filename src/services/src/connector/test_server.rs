//! For tests: an HTTPS server on the loopback interface with a certificate of its own authority, and a source of names.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{
    Connector, ConnectorConfig,
    dns::{Dns, DnsError, DnsFuture, SrvRecord},
};

/// Names for tests.
#[derive(Default)]
pub(crate) struct FakeDns {
    pub(crate) hosts: HashMap<String, IpAddr>,
    pub(crate) srv: HashMap<String, Vec<SrvRecord>>,
    /// Every name that was looked up.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

impl Dns for FakeDns {
    fn lookup_ip<'a>(&'a self, host: &'a str) -> DnsFuture<'a, Vec<IpAddr>> {
        self.asked.lock().push(host.to_owned());
        let found =
            self.hosts.get(host).map(|address| vec![*address]).ok_or_else(|| DnsError::NotFound(host.to_owned()));
        Box::pin(async move { found })
    }

    fn lookup_srv<'a>(&'a self, name: &'a str) -> DnsFuture<'a, Vec<SrvRecord>> {
        self.asked.lock().push(name.to_owned());
        let found = self.srv.get(name).cloned().unwrap_or_default();
        Box::pin(async move { Ok(found) })
    }
}

/// A request the server saw.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) request: http::request::Parts,
    pub(crate) body: Bytes,
    /// The name the client asked for in its TLS handshake.
    pub(crate) sni: Option<String>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.request.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// What the client takes the server for: `:authority`, or the `Host` header.
    pub(crate) fn authority(&self) -> Option<&str> {
        self.request.uri.authority().map(|authority| authority.as_str()).or_else(|| self.header("host"))
    }

    pub(crate) fn path(&self) -> &str {
        self.request.uri.path_and_query().map_or("", |path| path.as_str())
    }
}

type Handler = dyn Fn(&Seen) -> http::Response<Full<Bytes>> + Send + Sync;

pub(crate) struct TlsServer {
    pub(crate) address: SocketAddr,
    /// The root certificate to trust.
    pub(crate) root_pem: Vec<u8>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

pub(crate) fn answer(status: u16, body: impl Into<Bytes>) -> http::Response<Full<Bytes>> {
    http::Response::builder().status(status).body(Full::new(body.into())).expect("a response")
}

impl TlsServer {
    /// Starts a server whose certificate bears these names or addresses.
    pub(crate) async fn start(
        names: &[&str],
        handler: impl Fn(&Seen) -> http::Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let root_key = KeyPair::generate().expect("a key");
        let mut root_params = CertificateParams::new(Vec::new()).expect("parameters");
        root_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = root_params.self_signed(&root_key).expect("a root certificate");
        let issuer = Issuer::new(root_params, root_key);
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).expect("names").signed_by(&key, &issuer).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .expect("a certificate chain");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(serve(
            listener,
            tokio_rustls::TlsAcceptor::from(Arc::new(config)),
            seen.clone(),
            Arc::new(handler),
        ));
        Self { address, root_pem: root.pem().into_bytes(), seen }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// A connector that trusts this server, may connect to loopback, and knows these names.
    pub(crate) fn connector(&self, dns: FakeDns) -> Connector {
        let config = ConnectorConfig {
            extra_roots: vec![self.root_pem.clone()],
            allow_networks: vec!["127.0.0.0/8".parse().expect("a network")],
            ..ConnectorConfig::default()
        };
        Connector::with_dns(config, Arc::new(dns)).expect("a connector")
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
    seen: Arc<Mutex<Vec<Seen>>>,
    handler: Arc<Handler>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, seen, handler) = (acceptor.clone(), seen.clone(), handler.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let sni = stream.get_ref().1.server_name().map(str::to_owned);
            let service = service_fn(move |request: http::Request<Incoming>| {
                let (seen, handler, sni) = (seen.clone(), handler.clone(), sni.clone());
                async move {
                    let (request, body) = request.into_parts();
                    let body = body.collect().await?.to_bytes();
                    let this = Seen { request, body, sni };
                    seen.lock().push(this.clone());
                    Ok::<_, hyper::Error>(handler(&this))
                }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // The client going away is none of the test's business.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
