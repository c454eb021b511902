//! Fetching media from the server it belongs to, as a stream.
//!
//! The authenticated endpoint answers in two parts (`multipart/mixed`) and may say where the file is instead; servers that do not
//! know it, or answer it in another form, are asked on the older, open one. How much is read in all is decided by whoever reads the stream.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream, stream::BoxStream};
use http::header;
use ruma::{ServerName, http_headers::ContentDisposition};
use url::Url;

use super::{FEDERATION_V1, FederationClient, FederationError, FederationRequest, path, with_query};
use crate::{
    connector::{Request, Response},
    media::{
        multipart,
        remote::{FetchMediaError, MediaTransport, RemoteBody},
    },
};

const MEDIA_TIMEOUT: Duration = Duration::from_secs(300);
const REDIRECTS_MAX: usize = 5;

impl MediaTransport for FederationClient {
    fn fetch_media<'a>(
        &'a self,
        server: &'a ServerName,
        media_id: &'a str,
    ) -> BoxFuture<'a, Result<RemoteBody, FetchMediaError>> {
        Box::pin(async move {
            if media_id.is_empty()
                || !media_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            {
                return Err(FetchMediaError::NotFound(server.to_owned()));
            }
            self.download_media(server, media_id).await.map_err(|error| fetch_error(server, error))
        })
    }
}

impl FederationClient {
    /// `GET /_matrix/federation/v1/media/download/{mediaId}`, else `GET /_matrix/media/v3/download/{serverName}/{mediaId}`.
    async fn download_media(&self, server: &ServerName, media_id: &str) -> Result<RemoteBody, FederationError> {
        let request = FederationRequest::get(path(FEDERATION_V1, ["media", "download", media_id]));
        match self.open(server, FederationRequest { timeout: MEDIA_TIMEOUT, ..request }).await {
            Ok(response) => match multipart_boundary(&response) {
                Some(boundary) => self.read_parts(&boundary, response).await,
                None => self.download_media_openly(server, media_id).await,
            },
            Err(error) if is_not_matrix(&error) => self.download_media_openly(server, media_id).await,
            Err(error) => Err(error),
        }
    }

    async fn read_parts(&self, boundary: &str, response: Response) -> Result<RemoteBody, FederationError> {
        let malformed = |reason: String| FederationError::Malformed(reason);
        let part =
            multipart::read_mixed(boundary, body_of(response)).await.map_err(|error| malformed(error.to_string()))?;
        if let Some(location) = part.location {
            let url = Url::parse(&location).map_err(|error| malformed(format!("media location: {error}")))?;
            if !self.policy.admits_host(&url) {
                return Err(malformed(format!("media location: {location} is not among the servers federated with")));
            }
            let request = Request { timeout: Some(MEDIA_TIMEOUT), ..Request::get(url) };
            return self.follow(request).await;
        }
        let body = part.body.map(|chunk| chunk.map_err(|error| error.to_string())).boxed();
        Ok(RemoteBody { content_type: part.content_type, filename: part.filename, body })
    }

    async fn download_media_openly(&self, server: &ServerName, media_id: &str) -> Result<RemoteBody, FederationError> {
        self.policy.check(server)?;
        let route = self.resolver.resolve(server).await?;
        let path = path("/_matrix/media/v3/download", [server.as_str(), media_id]);
        // `allow_remote=false` stops loops between servers; `allow_redirect` is ours to follow.
        let path = with_query(path, [("allow_remote", "false"), ("allow_redirect", "true")]);
        let url = Url::parse(&format!("{}{path}", route.base.as_str().trim_end_matches('/')))
            .map_err(|error| FederationError::Malformed(error.to_string()))?;
        let request = Request { timeout: Some(MEDIA_TIMEOUT), host_meaning: route.host_meaning, ..Request::get(url) };
        self.follow(request).await
    }

    /// Where the file is, if not here: also a server that stores files for the one asked must be among those that are federated with.
    async fn follow(&self, request: Request) -> Result<RemoteBody, FederationError> {
        let admits = |url: &Url| self.policy.admits_host(url);
        read_plain(self.connector.send_following_where(request, REDIRECTS_MAX, admits).await?).await
    }
}

/// Whether a server seems not to know the endpoint: it says so, or its refusal is not one of the Matrix protocol.
fn is_not_matrix(error: &FederationError) -> bool {
    error.is_unrecognized() || matches!(error, FederationError::Status { status: 400..=499, errcode: None, .. })
}

/// A file that is the whole body of its answer.
async fn read_plain(response: Response) -> Result<RemoteBody, FederationError> {
    if !response.status().is_success() {
        let answer = response.capped(super::ANSWER_BYTES_MAX).await?;
        return Err(super::status_error(answer.status, &answer.body));
    }
    let content_type = header_text(&response, header::CONTENT_TYPE);
    let filename = response
        .headers()
        .get(header::CONTENT_DISPOSITION)
        .and_then(|value| ContentDisposition::try_from(value.as_bytes()).ok())
        .and_then(|disposition| disposition.filename);
    let body = body_of(response).map(|chunk| chunk.map_err(|error| error.to_string())).boxed();
    Ok(RemoteBody { content_type, filename, body })
}

fn multipart_boundary(response: &Response) -> Option<String> {
    header_text(response, header::CONTENT_TYPE).and_then(|content_type| multipart::boundary(&content_type))
}

fn header_text(response: &Response, name: header::HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

fn body_of(response: Response) -> BoxStream<'static, Result<Bytes, crate::connector::ConnectError>> {
    stream::try_unfold(
        response,
        |mut response| async move { Ok(response.chunk().await?.map(|chunk| (chunk, response))) },
    )
    .boxed()
}

fn fetch_error(server: &ServerName, error: FederationError) -> FetchMediaError {
    match error {
        FederationError::Policy(_) => FetchMediaError::NotAllowed(server.to_owned()),
        FederationError::Timeout => FetchMediaError::TimedOut(server.to_owned()),
        FederationError::TooLarge { .. } => FetchMediaError::TooLarge,
        FederationError::Status { errcode: Some(errcode), .. } if errcode == "M_NOT_YET_UPLOADED" => {
            FetchMediaError::NotYetUploaded
        }
        FederationError::Status { errcode: Some(errcode), .. } if errcode == "M_TOO_LARGE" => FetchMediaError::TooLarge,
        FederationError::Status { status: 404, .. } => FetchMediaError::NotFound(server.to_owned()),
        other => FetchMediaError::Unreachable { server: server.to_owned(), cause: other.to_string() },
    }
}
