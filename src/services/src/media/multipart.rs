//! The `multipart/mixed` form in which servers hand media to each other (server-server API, content repository): a JSON part,
//! then the file or a `Location` to fetch it from.
//!
//! Both directions stream: ruma's types for these endpoints hold the whole file in memory. Opening connections is not done here.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use ruma::http_headers::ContentDisposition;

/// Bytes before the file: preamble, part headers and the JSON part together. What servers send is a few hundred.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A response that is not what it should be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MultipartError {
    #[error("multipart body: {0}")]
    Malformed(&'static str),
    #[error("multipart body broke off: {0}")]
    Incomplete(String),
}

/// The second part of the response.
pub struct MediaPart {
    pub content_type: Option<String>,
    pub filename: Option<String>,
    /// Where the file is instead; then `body` is to be ignored.
    pub location: Option<String>,
    pub body: BoxStream<'static, Result<Bytes, MultipartError>>,
}

/// The boundary of a `multipart/mixed` content type.
pub fn boundary(content_type: &str) -> Option<String> {
    let (essence, parameters) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let boundary = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    })?;
    (!boundary.is_empty() && boundary.len() <= 70).then_some(boundary)
}

/// Reads a response up to the start of the file.
pub async fn read_mixed<E: std::fmt::Display>(
    boundary: &str,
    body: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Result<MediaPart, MultipartError> {
    let body = body.map(|chunk| chunk.map_err(|error| MultipartError::Incomplete(error.to_string()))).boxed();
    // The first boundary may stand at the very start, without the line break that belongs to the others.
    let mut reader = Reader {
        buffer: BytesMut::from(&b"\r\n"[..]),
        body,
        delimiter: format!("\r\n--{boundary}").into_bytes(),
        head_bytes: 0,
    };
    reader.take_to_delimiter().await?;
    reader.take_headers().await?;
    reader.take_to_delimiter().await?;
    let headers = reader.take_headers().await?;
    let value = |name: &str| {
        headers.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let filename = value("content-disposition")
        .and_then(|disposition| ContentDisposition::try_from(disposition.as_bytes()).ok())
        .and_then(|disposition| disposition.filename);
    Ok(MediaPart {
        content_type: value("content-type"),
        filename,
        location: value("location"),
        body: reader.into_file(),
    })
}

struct Reader {
    buffer: BytesMut,
    body: BoxStream<'static, Result<Bytes, MultipartError>>,
    delimiter: Vec<u8>,
    head_bytes: usize,
}

impl Reader {
    /// Reads one more chunk; false at the end.
    async fn fill(&mut self) -> Result<bool, MultipartError> {
        let Some(chunk) = self.body.next().await else { return Ok(false) };
        self.buffer.extend_from_slice(&chunk?);
        Ok(true)
    }

    async fn fill_head(&mut self) -> Result<(), MultipartError> {
        if self.head_bytes + self.buffer.len() > HEAD_BYTES_MAX {
            return Err(MultipartError::Malformed("too much before the file"));
        }
        if self.fill().await? { Ok(()) } else { Err(MultipartError::Incomplete("it ends before the file".to_owned())) }
    }

    /// Drops everything up to and including the next delimiter.
    async fn take_to_delimiter(&mut self) -> Result<(), MultipartError> {
        loop {
            if let Some(at) = find(&self.buffer, &self.delimiter) {
                self.drop_head(at + self.delimiter.len());
                return Ok(());
            }
            self.fill_head().await?;
        }
    }

    /// Takes the rest of the delimiter's line, and the headers up to the empty line.
    async fn take_headers(&mut self) -> Result<String, MultipartError> {
        loop {
            if self.buffer.starts_with(b"--") {
                return Err(MultipartError::Malformed("it has less than two parts"));
            }
            let end = find(&self.buffer, b"\r\n\r\n")
                .map(|at| (at, 4))
                .or_else(|| find(&self.buffer, b"\n\n").map(|at| (at, 2)));
            if let Some((at, length)) = end {
                let headers = String::from_utf8_lossy(self.buffer.get(..at).unwrap_or_default()).into_owned();
                self.drop_head(at + length);
                return Ok(headers);
            }
            self.fill_head().await?;
        }
    }

    fn drop_head(&mut self, bytes: usize) {
        self.buffer.advance(bytes.min(self.buffer.len()));
        self.head_bytes += bytes;
    }

    /// The bytes up to the next delimiter. A body that ends without one is an error: it was cut.
    fn into_file(self) -> BoxStream<'static, Result<Bytes, MultipartError>> {
        stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            loop {
                if let Some(at) = find(&reader.buffer, &reader.delimiter) {
                    let last = reader.buffer.split_to(at).freeze();
                    return (!last.is_empty()).then_some((Ok(last), None));
                }
                // A delimiter may have begun in the last bytes; those wait for the next chunk.
                let safe = reader.buffer.len().saturating_sub(reader.delimiter.len());
                if safe > 0 {
                    let chunk = reader.buffer.split_to(safe).freeze();
                    return Some((Ok(chunk), Some(reader)));
                }
                match reader.fill().await {
                    Ok(true) => {}
                    Ok(false) => {
                        return Some((
                            Err(MultipartError::Incomplete("the last boundary is missing".to_owned())),
                            None,
                        ));
                    }
                    Err(error) => return Some((Err(error), None)),
                }
            }
        })
        .boxed()
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// What stands before a file in a response of ours: the empty JSON part, and the file's headers.
pub fn write_head(boundary: &str, content_type: &str, disposition: &str) -> Bytes {
    Bytes::from(format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\nContent-Type: {content_type}\r\nContent-Disposition: {disposition}\r\n\r\n"
    ))
}

/// What stands after the file.
pub fn write_tail(boundary: &str) -> Bytes {
    Bytes::from(format!("\r\n--{boundary}--\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(body: &[u8], chunk_bytes: usize) -> Result<(MediaPart, Vec<u8>), MultipartError> {
        let chunks: Vec<_> =
            body.chunks(chunk_bytes).map(|chunk| Ok::<_, String>(Bytes::copy_from_slice(chunk))).collect();
        let mut part = read_mixed("xyz", stream::iter(chunks)).await?;
        let mut file = Vec::new();
        while let Some(chunk) = part.body.next().await {
            file.extend_from_slice(&chunk?);
        }
        Ok((part, file))
    }

    #[tokio::test]
    async fn what_is_written_is_read_back_however_it_is_cut() {
        let file = b"first\r\n--xy\r\nnot the end\r\n";
        let mut body = write_head("xyz", "image/png", "inline; filename=\"a b.png\"").to_vec();
        body.extend_from_slice(file);
        body.extend_from_slice(&write_tail("xyz"));
        for chunk_bytes in [1, 2, 3, 7, 64, 4096] {
            let (part, read) = read(&body, chunk_bytes).await.unwrap();
            assert_eq!(read, file);
            assert_eq!(part.content_type.as_deref(), Some("image/png"));
            assert_eq!(part.filename.as_deref(), Some("a b.png"));
            assert_eq!(part.location, None);
        }
    }

    #[tokio::test]
    async fn empty_file_is_read() {
        let mut body = write_head("xyz", "text/plain", "inline").to_vec();
        body.extend_from_slice(&write_tail("xyz"));
        assert_eq!(read(&body, 5).await.unwrap().1, b"");
    }

    #[tokio::test]
    async fn leading_line_break_and_missing_final_dashes_are_accepted() {
        let body = b"\r\n--xyz\r\nContent-Type: application/json\r\n\r\n{}\r\n--xyz\r\nContent-Type: text/plain\r\n\r\nhi\r\n--xyz";
        assert_eq!(read(body, 9).await.unwrap().1, b"hi");
    }

    #[tokio::test]
    async fn location_is_found() {
        let body = b"--xyz\r\n\r\n{}\r\n--xyz\r\nLocation: https://cdn.example/f\r\n\r\n\r\n--xyz--";
        assert_eq!(read(body, 11).await.unwrap().0.location.as_deref(), Some("https://cdn.example/f"));
    }

    #[tokio::test]
    async fn cut_file_is_an_error() {
        let mut body = write_head("xyz", "text/plain", "inline").to_vec();
        body.extend_from_slice(b"half of it");
        assert!(matches!(read(&body, 6).await, Err(MultipartError::Incomplete(_))));
        assert!(matches!(read(b"--xyz\r\n\r\n{}\r\n--xyz--", 6).await, Err(MultipartError::Malformed(_))));
    }

    #[tokio::test]
    async fn endless_head_is_refused() {
        let body = vec![b'a'; HEAD_BYTES_MAX * 3];
        assert!(matches!(read(&body, 4096).await, Err(MultipartError::Malformed(_))));
    }

    #[test]
    fn boundary_is_found_in_the_content_type() {
        assert_eq!(boundary("multipart/mixed; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(boundary("Multipart/Mixed;charset=x; Boundary=\"a-c\"").as_deref(), Some("a-c"));
        assert_eq!(boundary("text/plain; boundary=abc"), None);
        assert_eq!(boundary("multipart/mixed"), None);
    }
}
