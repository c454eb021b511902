//! What requests for media carry in path and query.

use std::time::Duration;

use axum::extract::{Query, rejection::QueryRejection};
use chappe_services::media::{Access, FileInfo, GetMediaError, Media, StoredFile, thumbnails::Method};
use http::{HeaderMap, header};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use crate::error::ApiError;

/// How long a download waits for an upload that is still to come, if the client does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(20);
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// The parameters of downloads; what is not understood counts as not given. Redirects are never made, so `allow_redirect` is
/// not looked at.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct DownloadQuery {
    timeout_ms: Option<u64>,
    allow_remote: Option<bool>,
}

impl DownloadQuery {
    pub(crate) fn wait(&self) -> Duration {
        self.timeout_ms.map_or(WAIT_DEFAULT, Duration::from_millis).min(WAIT_MAX)
    }

    /// The file that is asked for.
    pub(crate) async fn file(
        &self,
        media: &Media,
        server: &ServerName,
        media_id: &str,
        access: Access,
    ) -> Result<StoredFile, GetMediaError> {
        if self.allow_remote.unwrap_or(true) {
            media.get_file(server, media_id, access, self.wait()).await
        } else {
            media.get_held_file(server, media_id, access, self.wait()).await
        }
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct ThumbnailQuery {
    pub(crate) width: u32,
    pub(crate) height: u32,
    method: Option<String>,
    pub(crate) animated: Option<bool>,
}

impl ThumbnailQuery {
    pub(crate) fn method(&self) -> Result<Method, ApiError> {
        match self.method.as_deref() {
            None | Some("scale") => Ok(Method::Scale),
            Some("crop") => Ok(Method::Crop),
            Some(_) => Err(ApiError::invalid_param("method must be crop or scale")),
        }
    }

    pub(crate) fn check_size(&self) -> Result<(), ApiError> {
        if self.width == 0 || self.height == 0 {
            return Err(ApiError::invalid_param("width and height must be positive"));
        }
        Ok(())
    }
}

/// The name that an uploader gives a file.
#[derive(Debug, Deserialize)]
pub(crate) struct UploadQuery {
    filename: Option<String>,
}

impl UploadQuery {
    pub(crate) fn info(self, headers: &HeaderMap) -> FileInfo {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        FileInfo { content_type, filename: self.filename }
    }
}

pub(crate) fn server_name(text: &str) -> Result<OwnedServerName, ApiError> {
    OwnedServerName::try_from(text).map_err(|_| ApiError::invalid_param("This is not a server name"))
}

pub(crate) fn parsed<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(query)| query).map_err(|rejection| ApiError::invalid_param(rejection.body_text()))
}
