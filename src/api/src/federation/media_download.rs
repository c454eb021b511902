//! GET /_matrix/federation/v1/media/download/{mediaId}
//!
//! Server-server API, content repository. Answers for this server's own media only, as `multipart/mixed`.

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chappe_services::media::{Access, Media, StoredFile, multipart};
use futures_util::{StreamExt, stream};
use http::header;
use rand::RngExt;
use ruma::api::federation::authenticated_media::get_content::v1::Request;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use crate::{
    error::ApiError,
    extract::Signed,
    media::{
        query::WAIT_MAX,
        serve::{content_type, disposition, open},
    },
};

const READ_BYTES: usize = 64 * 1024;

pub async fn media_download(
    State(media): State<Media>,
    Signed { body, .. }: Signed<Request>,
) -> Result<Response, ApiError> {
    let file = media.get_own_file(&body.media_id, Access::Authenticated, body.timeout_ms.min(WAIT_MAX)).await?;
    answer_in_parts(&file).await
}

/// An empty JSON part, and the file, as a stream.
pub(crate) async fn answer_in_parts(file: &StoredFile) -> Result<Response, ApiError> {
    let boundary: String = rand::rng().sample_iter(rand::distr::Alphanumeric).take(40).map(char::from).collect();
    let head = multipart::write_head(&boundary, content_type(file), &disposition(file));
    let tail = multipart::write_tail(&boundary);
    let length = (head.len() + tail.len()) as u64 + file.size_bytes;
    let bytes = ReaderStream::with_capacity(open(file).await?.take(file.size_bytes), READ_BYTES);
    let one = |part: Bytes| stream::once(async move { Ok::<_, std::io::Error>(part) });
    let body = one(head).chain(bytes).chain(one(tail));
    let headers = [
        (header::CONTENT_TYPE, format!("multipart/mixed; boundary={boundary}")),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}
