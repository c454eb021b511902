//! `chappe health`: asks a running server for its versions, as a client would. For containers without a shell.

use std::{path::Path, time::Duration};

use axum::body::Body;
use hyper::{Request, StatusCode, Uri, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::CommandResult;
use crate::config::{self, ListenAddress};

const TIMEOUT: Duration = Duration::from_secs(10);
const PATH: &str = "/_matrix/client/versions";

#[derive(Debug, thiserror::Error)]
enum HealthError {
    #[error("--url: found \"{0}\"; allowed: http://HOST:PORT or unix:/path/of/socket")]
    Url(String),
    #[error("listen.client is empty: name the server with --url")]
    NoAddress,
    #[error("no answer within {} seconds", TIMEOUT.as_secs())]
    Timeout,
    #[error("no connection: {0}")]
    Connect(#[from] std::io::Error),
    #[error("no answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("no request: {0}")]
    Request(#[from] axum::http::Error),
    #[error("answered {0}")]
    Status(StatusCode),
}

pub fn run(config: Option<&Path>, url: Option<&str>) -> CommandResult {
    let url = match url {
        Some(url) => url.to_owned(),
        None => default_url(&config::load(config)?.config)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answered = runtime.block_on(async { tokio::time::timeout(TIMEOUT, ask(&url)).await });
    answered.unwrap_or(Err(HealthError::Timeout))?;
    Ok(())
}

fn default_url(config: &config::Config) -> Result<String, HealthError> {
    match config.listen.client.first() {
        Some(ListenAddress::Tcp(address)) if address.ip().is_unspecified() => {
            Ok(format!("http://127.0.0.1:{}", address.port()))
        }
        Some(ListenAddress::Tcp(address)) => Ok(format!("http://{address}")),
        Some(unix @ ListenAddress::Unix(_)) => Ok(unix.to_string()),
        None => Err(HealthError::NoAddress),
    }
}

async fn ask(url: &str) -> Result<(), HealthError> {
    if let Some(path) = url.strip_prefix("unix:") {
        return ask_over(UnixStream::connect(path).await?, "localhost").await;
    }
    let wrong = || HealthError::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(wrong)?;
    let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
    ask_over(TcpStream::connect(&address).await?, &address).await
}

async fn ask_over<S>(stream: S, host: &str) -> Result<(), HealthError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(PATH).header(HOST, host).body(Body::empty())?;
    // An error of the connection is the request's error too.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    match answer.status() {
        StatusCode::OK => Ok(()),
        other => Err(HealthError::Status(other)),
    }
}
