//! A stored file as an HTTP response: headers that keep it harmless, ranges, and a body that streams from disk.

use std::io::SeekFrom;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use chappe_services::media::{Access, StoredFile};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use ruma::http_headers::{ContentDisposition, ContentDispositionType};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::error::ApiError;

const CONTENT_SECURITY_POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; media-src 'self'; object-src 'self';";

/// Client-server API, serving inline content: types that browsers do not run.
const INLINE_TYPES: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

const READ_BYTES: usize = 64 * 1024;

/// The content type a file is served with.
pub(crate) fn content_type(file: &StoredFile) -> &str {
    file.content_type.as_deref().unwrap_or("application/octet-stream")
}

/// The `Content-Disposition` a file is served with: inline for harmless types only.
pub(crate) fn disposition(file: &StoredFile) -> String {
    let essence = content_type(file).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let kind = if INLINE_TYPES.contains(&essence.as_str()) {
        ContentDispositionType::Inline
    } else {
        ContentDispositionType::Attachment
    };
    ContentDisposition::new(kind).with_filename(file.filename.clone()).to_string()
}

/// Answers with the file, or the part of it that `Range` asks for.
pub(crate) async fn serve(file: &StoredFile, request: &HeaderMap, access: Access) -> Result<Response, ApiError> {
    let etag = format!("\"{}\"", sha256_text(file));
    let mut headers = HeaderMap::new();
    // What an id names never changes. What only members of this server may see is not for caches that others share.
    let cache = match access {
        Access::Authenticated => "private, max-age=86400, immutable",
        Access::Legacy => "public, max-age=86400, immutable",
    };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(header::ETAG, header_value(&etag)?);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    if request
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|known| known.contains(&etag))
    {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    headers.insert(header::CONTENT_TYPE, header_value(content_type(file))?);
    headers.insert(header::CONTENT_DISPOSITION, header_value(&disposition(file))?);
    let (status, start, length) = match requested_range(request, &etag, file.size_bytes) {
        RequestedRange::Whole => (StatusCode::OK, 0, file.size_bytes),
        RequestedRange::Part { start, end } => {
            headers.insert(header::CONTENT_RANGE, header_value(&format!("bytes {start}-{end}/{}", file.size_bytes))?);
            (StatusCode::PARTIAL_CONTENT, start, (end - start).saturating_add(1))
        }
        RequestedRange::Unsatisfiable => {
            headers.insert(header::CONTENT_RANGE, header_value(&format!("bytes */{}", file.size_bytes))?);
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response());
        }
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let mut open = open(file).await?;
    if start > 0 {
        open.seek(SeekFrom::Start(start)).await.map_err(ApiError::internal)?;
    }
    let body = Body::from_stream(ReaderStream::with_capacity(open.take(length), READ_BYTES));
    Ok((status, headers, body).into_response())
}

/// Opens a stored file. That it is missing is this server's fault, not the client's.
pub(crate) async fn open(file: &StoredFile) -> Result<tokio::fs::File, ApiError> {
    tokio::fs::File::open(&file.path)
        .await
        .map_err(|error| ApiError::internal(format!("media file {}: {error}", file.path.display())))
}

/// A name for what is served: thumbnails of one file differ from it and from each other, so their own name is part of it.
fn sha256_text(file: &StoredFile) -> String {
    let mut text = String::with_capacity(96);
    for byte in file.sha256 {
        text.push_str(&format!("{byte:02x}"));
    }
    if let Some(name) = file.path.file_name().and_then(|name| name.to_str())
        && name != text
    {
        text = format!("{text}-{name}");
    }
    text
}

#[derive(Debug, PartialEq, Eq)]
enum RequestedRange {
    Whole,
    /// Both ends included.
    Part {
        start: u64,
        end: u64,
    },
    Unsatisfiable,
}

/// RFC 9110, range requests. Several ranges at once are answered with the whole file, as is a range of another version.
fn requested_range(request: &HeaderMap, etag: &str, size_bytes: u64) -> RequestedRange {
    let text = |name| request.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|condition| condition != etag) {
        return RequestedRange::Whole;
    }
    let Some((first, last)) = text(header::RANGE)
        .and_then(|range| range.trim().strip_prefix("bytes="))
        .and_then(|range| range.split_once('-'))
    else {
        return RequestedRange::Whole;
    };
    let (first, last) = (first.trim(), last.trim());
    let whole_size = size_bytes.checked_sub(1);
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(end)) if start <= end => match whole_size {
            Some(max) if start <= max => RequestedRange::Part { start, end: end.min(max) },
            _ => RequestedRange::Unsatisfiable,
        },
        (Ok(start), Err(_)) if last.is_empty() => match whole_size {
            Some(max) if start <= max => RequestedRange::Part { start, end: max },
            _ => RequestedRange::Unsatisfiable,
        },
        (Err(_), Ok(suffix)) if first.is_empty() => match whole_size {
            Some(max) if suffix > 0 => RequestedRange::Part { start: size_bytes.saturating_sub(suffix), end: max },
            _ => RequestedRange::Unsatisfiable,
        },
        _ => RequestedRange::Whole,
    }
}

fn header_value(text: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::from_str(text).map_err(ApiError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &'static str, size_bytes: u64) -> RequestedRange {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static(text));
        requested_range(&headers, "\"e\"", size_bytes)
    }

    fn file(content_type: &str, filename: Option<&str>) -> StoredFile {
        StoredFile {
            path: "x".into(),
            size_bytes: 1,
            sha256: [0; 32],
            content_type: Some(content_type.to_owned()),
            filename: filename.map(str::to_owned),
        }
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        assert_eq!(range("bytes=0-4", 10), RequestedRange::Part { start: 0, end: 4 });
        assert_eq!(range("bytes=5-", 10), RequestedRange::Part { start: 5, end: 9 });
        assert_eq!(range("bytes=8-100", 10), RequestedRange::Part { start: 8, end: 9 });
        assert_eq!(range("bytes=-3", 10), RequestedRange::Part { start: 7, end: 9 });
        assert_eq!(range("bytes=-30", 10), RequestedRange::Part { start: 0, end: 9 });
        assert_eq!(range("bytes=10-", 10), RequestedRange::Unsatisfiable);
        assert_eq!(range("bytes=0-", 0), RequestedRange::Unsatisfiable);
        assert_eq!(range("bytes=0-1,3-4", 10), RequestedRange::Whole);
        assert_eq!(range("bytes=4-2", 10), RequestedRange::Whole);
        assert_eq!(range("lines=1-2", 10), RequestedRange::Whole);
    }

    #[test]
    fn only_harmless_types_are_inline() {
        assert_eq!(disposition(&file("image/png", None)), "inline");
        assert_eq!(disposition(&file("Text/Plain; charset=utf-8", None)), "inline");
        assert_eq!(disposition(&file("image/svg+xml", None)), "attachment");
        assert_eq!(disposition(&file("text/html", Some("a.html"))), "attachment; filename=a.html");
    }

    #[test]
    fn file_names_are_quoted_or_encoded() {
        assert_eq!(
            disposition(&file("image/png", Some("name;with;semicolons"))),
            "inline; filename=\"name;with;semicolons\""
        );
        assert_eq!(disposition(&file("image/png", Some("\u{1f414}"))), "inline; filename*=utf-8''%F0%9F%90%94");
        let injected = disposition(&file("image/png", Some("a\r\nSet-Cookie: x")));
        assert!(!injected.contains('\n') && !injected.contains('\r'), "{injected}");
    }
}
