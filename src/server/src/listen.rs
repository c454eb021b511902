//! Listeners: accepting connections, speaking TLS where configured, and serving HTTP/1.1 and HTTP/2 on them.
//!
//! Knows nothing of Matrix: it hands requests to one router, with the peer's address beside them, and stops
//! when told to.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use chappe_api::extract::{PeerAddress, PeerCertificate};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    config::{ListenAddress, ListenSection},
    tls::is_certificate_of,
};

/// Pause after a failed accept, which means too many open files: the next would fail at once too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Requests one HTTP/2 connection may have open at a time.
const HTTP2_STREAMS_MAX: u32 = 250;

/// A silent HTTP/2 peer is asked for a sign of life this often.
const HTTP2_KEEP_ALIVE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {address}: {error}")]
pub struct BindError {
    key: &'static str,
    address: ListenAddress,
    error: io::Error,
}

/// A socket that is bound, and whether TLS is spoken on it.
pub struct BoundListener {
    address: ListenAddress,
    socket: Socket,
    speaks_tls: bool,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl BoundListener {
    /// The address in use: with the port the system chose when 0 was configured.
    pub fn address(&self) -> ListenAddress {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().map_or_else(|_| self.address.clone(), ListenAddress::Tcp),
            Socket::Unix(_) => self.address.clone(),
        }
    }

    pub fn speaks_tls(&self) -> bool {
        self.speaks_tls
    }
}

/// Binds every configured address, each once; or none, when one fails.
pub async fn bind(section: &ListenSection, has_certificate: bool) -> Result<Vec<BoundListener>, BindError> {
    let mut bound = Vec::new();
    for address in &section.federation {
        bound.push(bind_one("listen.federation", address, has_certificate).await?);
    }
    for address in section.client.iter().filter(|address| !section.federation.contains(address)) {
        bound.push(bind_one("listen.client", address, false).await?);
    }
    Ok(bound)
}

/// Binds the listeners of the metrics.
pub async fn bind_metrics(addresses: &[ListenAddress]) -> Result<Vec<BoundListener>, BindError> {
    let mut bound = Vec::new();
    for address in addresses {
        bound.push(bind_one("metrics.listen", address, false).await?);
    }
    Ok(bound)
}

async fn bind_one(key: &'static str, address: &ListenAddress, speaks_tls: bool) -> Result<BoundListener, BindError> {
    let socket = match address {
        ListenAddress::Tcp(tcp) => TcpListener::bind(tcp).await.map(Socket::Tcp),
        ListenAddress::Unix(path) => bind_unix(path).map(Socket::Unix),
    };
    match socket {
        Ok(socket) => Ok(BoundListener { address: address.clone(), socket, speaks_tls }),
        Err(error) => Err(BindError { key, address: address.clone(), error }),
    }
}

/// Binds a unix socket, in place of one that a killed server left behind; never in place of one that answers.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::net::UnixStream;
    if path.exists() {
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers on this socket"));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// What all connections share.
struct Context {
    router: Router,
    header_timeout: Duration,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

/// Serves `router` on `listeners` until `stop`, and then until the requests in progress are answered or the
/// grace has passed.
pub async fn serve(
    listeners: Vec<BoundListener>,
    router: Router,
    tls: Option<TlsAcceptor>,
    section: ListenSection,
    stop: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let context = Arc::new(Context {
        router,
        header_timeout: Duration::from_secs(section.header_timeout_seconds),
        connections: Arc::new(Semaphore::new(section.max_connections.min(Semaphore::MAX_PERMITS))),
        stop: stop.clone(),
        tracker: tracker.clone(),
    });
    for listener in listeners {
        let tls = tls.clone().filter(|_| listener.speaks_tls);
        tracker.spawn(accept(listener.socket, tls, context.clone()));
    }
    stop.cancelled().await;
    tracker.close();
    let grace = Duration::from_secs(section.shutdown_grace_seconds);
    if timeout(grace, tracker.wait()).await.is_err() {
        tracing::warn!(connections = tracker.len(), "stopping with requests in progress, as the grace has passed");
    }
}

async fn accept(socket: Socket, tls: Option<TlsAcceptor>, context: Arc<Context>) {
    loop {
        let next = async {
            // Waiting here, before accepting, leaves what is too much in the system's queue.
            let permit = context.connections.clone().acquire_owned().await.map_err(io::Error::other)?;
            match &socket {
                Socket::Tcp(listener) => {
                    let (stream, peer) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    Ok((permit, Accepted::Tcp(stream, peer)))
                }
                Socket::Unix(listener) => Ok((permit, Accepted::Unix(listener.accept().await?.0))),
            }
        };
        let accepted: io::Result<_> = tokio::select! {
            accepted = next => accepted,
            () = context.stop.cancelled() => return,
        };
        match accepted {
            Ok((permit, Accepted::Tcp(stream, peer))) => {
                let connection = serve_stream(stream, Some(peer.ip()), tls.clone(), permit, context.clone());
                context.tracker.spawn(connection);
            }
            Ok((permit, Accepted::Unix(stream))) => {
                let connection = serve_stream(stream, None, tls.clone(), permit, context.clone());
                context.tracker.spawn(connection);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

enum Accepted {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream),
}

async fn serve_stream<S>(
    stream: S,
    peer: Option<IpAddr>,
    tls: Option<TlsAcceptor>,
    permit: OwnedSemaphorePermit,
    context: Arc<Context>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some(tls) = tls else { return serve_http(stream, peer, None, permit, context).await };
    match timeout(context.header_timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = shown.map(|certificate| {
                let certificate = certificate.clone().into_owned();
                PeerCertificate(Arc::new(move |server| is_certificate_of(&certificate, server)))
            });
            serve_http(stream, peer, certificate, permit, context).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn serve_http<S>(
    stream: S,
    peer: Option<IpAddr>,
    certificate: Option<PeerCertificate>,
    _permit: OwnedSemaphorePermit,
    context: Arc<Context>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let has_asked = Arc::new(AtomicBool::new(false));
    let service = {
        let (context, has_asked) = (context.clone(), has_asked.clone());
        service_fn(move |request: Request<Incoming>| {
            has_asked.store(true, Ordering::Relaxed);
            let mut request = request.map(Body::new);
            // A peer without address is a process on this machine, over a unix socket.
            request.extensions_mut().insert(PeerAddress(peer));
            if let Some(certificate) = &certificate {
                request.extensions_mut().insert(certificate.clone());
            }
            context.router.clone().oneshot(request)
        })
    };

    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(context.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_KEEP_ALIVE)
        .max_concurrent_streams(HTTP2_STREAMS_MAX);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));

    // A connection that never says anything is in no protocol yet, so hyper's own timeouts do not see it.
    let mut silence = pin!(tokio::time::sleep(context.header_timeout));
    let mut may_be_silent = true;
    let mut is_stopping = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = silence.as_mut(), if may_be_silent => {
                if !has_asked.load(Ordering::Relaxed) {
                    return;
                }
                may_be_silent = false;
            }
            () = context.stop.cancelled(), if !is_stopping => {
                connection.as_mut().graceful_shutdown();
                is_stopping = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Running {
        address: SocketAddr,
        stop: CancellationToken,
        served: tokio::task::JoinHandle<()>,
    }

    async fn start(router: Router, section: ListenSection) -> Running {
        let bound = bind(&section, false).await.expect("bound");
        let ListenAddress::Tcp(address) = bound[0].address() else { panic!("a TCP listener") };
        let stop = CancellationToken::new();
        let served = tokio::spawn({
            let stop = stop.clone();
            async move { serve(bound, router, None, section, stop).await }
        });
        Running { address, stop, served }
    }

    fn loopback() -> ListenSection {
        let any_port = ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        ListenSection { client: vec![any_port], federation: Vec::new(), ..ListenSection::default() }
    }

    #[tokio::test]
    async fn a_request_in_progress_is_answered_before_stopping() {
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "done"
        };
        let running = start(Router::new().route("/", get(slow)), loopback()).await;
        let mut stream = tokio::net::TcpStream::connect(running.address).await.expect("connected");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.stop.cancel();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        running.served.await.expect("stopped");
        assert!(tokio::net::TcpStream::connect(running.address).await.is_err());
    }

    #[tokio::test]
    async fn a_silent_connection_is_closed() {
        let section = ListenSection { header_timeout_seconds: 1, ..loopback() };
        let running = start(Router::new(), section).await;
        let mut stream = tokio::net::TcpStream::connect(running.address).await.expect("connected");
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection stayed open");
        running.stop.cancel();
    }

    #[tokio::test]
    async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "a dropped socket leaves its file");
        let live = bind_unix(&path).expect("replaces the stale one");
        assert_eq!(bind_unix(&path).map(drop).map_err(|e| e.kind()), Err(io::ErrorKind::AddrInUse));
        drop(live);
    }

    #[tokio::test]
    async fn an_address_in_both_lists_is_bound_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let both = ListenAddress::Unix(dir.path().join("both"));
        let section = ListenSection { client: vec![both.clone()], federation: vec![both], ..ListenSection::default() };
        let bound = bind(&section, true).await.expect("bound");
        assert_eq!(bound.len(), 1);
        assert!(bound[0].speaks_tls());
    }
}
