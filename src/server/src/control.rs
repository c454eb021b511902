//! The control socket: `chappe user` talks to a running server through `control.sock` in its data directory.
//!
//! Whoever may open the socket (mode 0600) could read the database too, so it asks for no password. One request
//! a connection, one line of JSON each way.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::user_admin::{UserAdmin, UserRequest};

const SOCKET_NAME: &str = "control.sock";

/// Longest request and answer, in bytes: a list of many accounts is long.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// How long a client of the socket may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the control socket of the running server: {0}")]
    Io(#[from] io::Error),
    #[error("the running server answered with something else than was asked for: {0}")]
    Answer(#[from] serde_json::Error),
}

/// What the server did: lines for the operator, or why not.
#[derive(Debug, Deserialize, Serialize)]
pub enum Answer {
    Done(Vec<String>),
    Refused(String),
}

/// Serves the control socket until `stop`. A socket that cannot be made is no reason not to serve users.
pub async fn serve(data_dir: &Path, admin: Arc<UserAdmin>, stop: CancellationToken) {
    let path = data_dir.join(SOCKET_NAME);
    let listener = match bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no control socket: `chappe user` works only while the server is stopped");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let admin = admin.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &admin).await {
                        tracing::warn!(%error, "a request on the control socket failed");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    if let Err(error) = fs::remove_file(&path) {
        tracing::debug!(%error, "the control socket's file stays behind");
    }
}

/// Binds the socket. A file that is there already is of a server that was killed: this one holds the lock.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn answer(stream: UnixStream, admin: &UserAdmin) -> Result<(), ControlError> {
    let mut stream = BufReader::new(stream);
    let line = timeout(REQUEST_TIMEOUT, read_line(&mut stream))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let answer = match serde_json::from_str::<UserRequest>(&line) {
        Ok(request) => match admin.perform(request).await {
            Ok(lines) => Answer::Done(lines),
            Err(error) => Answer::Refused(error.to_string()),
        },
        Err(error) => Answer::Refused(format!("not a request: {error}")),
    };
    write_line(&mut stream, &serde_json::to_string(&answer)?).await
}

/// Asks the server that runs on this data directory; `None` when none does.
pub async fn ask(data_dir: &Path, request: &UserRequest) -> Result<Option<Answer>, ControlError> {
    let stream = match UnixStream::connect(data_dir.join(SOCKET_NAME)).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let mut stream = BufReader::new(stream);
    write_line(&mut stream, &serde_json::to_string(request)?).await?;
    Ok(Some(serde_json::from_str(&read_line(&mut stream).await?)?))
}

async fn read_line(stream: &mut BufReader<UnixStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
    Ok(line)
}

async fn write_line(stream: &mut BufReader<UnixStream>, line: &str) -> Result<(), ControlError> {
    stream.write_all(line.as_bytes()).await?;
    stream.write_all(b"\n").await?;
    stream.flush().await?;
    Ok(())
}
