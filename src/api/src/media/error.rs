//! What the content repository's errors are answered with.

use chappe_services::media::{GetMediaError, ThumbnailError, UploadError, remote::FetchMediaError};
use http::StatusCode;
use ruma::api::error::ErrorCode;

use crate::error::ApiError;

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::TooLarge { .. } => Self::too_large(error.to_string()),
            UploadError::QuotaUsedUp { .. } => Self::forbidden(error.to_string()),
            UploadError::Incomplete(_) => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, "The upload broke off")
            }
            UploadError::UnknownId => Self::not_found("Unknown media ID"),
            UploadError::NotOwner => Self::forbidden("This media ID was created by somebody else"),
            UploadError::AlreadyUploaded => {
                Self::new(StatusCode::CONFLICT, ErrorCode::CannotOverwriteMedia, "This media ID has content already")
            }
            UploadError::TooManyPending { retry_after } => Self::limit_exceeded(retry_after),
            UploadError::Disk(error) => disk(&error),
            UploadError::Commit(error) => error.into(),
        }
    }
}

impl From<GetMediaError> for ApiError {
    fn from(error: GetMediaError) -> Self {
        match error {
            GetMediaError::InvalidId => Self::invalid_param(error.to_string()),
            GetMediaError::NotFound => Self::not_found("Media not found"),
            GetMediaError::NotYetUploaded => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::NotYetUploaded, "Media has not been uploaded yet")
            }
            GetMediaError::Remote(error) => remote(&error),
            GetMediaError::Disk(error) => disk(&error),
            GetMediaError::Store(error) => error.into(),
        }
    }
}

impl From<ThumbnailError> for ApiError {
    fn from(error: ThumbnailError) -> Self {
        match error {
            ThumbnailError::Media(error) => error.into(),
            ThumbnailError::Unsupported(_) => Self::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, error.to_string()),
            ThumbnailError::TooLarge { remote: false } => Self::too_large(error.to_string()),
            ThumbnailError::TooLarge { remote: true } => {
                Self::new(StatusCode::BAD_GATEWAY, ErrorCode::TooLarge, error.to_string())
            }
            ThumbnailError::TimedOut => Self::unavailable(error.to_string()),
        }
    }
}

fn remote(error: &FetchMediaError) -> ApiError {
    match error {
        FetchMediaError::NotFound(_) => ApiError::not_found("Media not found"),
        FetchMediaError::TooLarge => ApiError::new(StatusCode::BAD_GATEWAY, ErrorCode::TooLarge, error.to_string()),
        FetchMediaError::NotAllowed(_) => ApiError::forbidden(error.to_string()),
        FetchMediaError::NotYetUploaded => {
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::NotYetUploaded, "Media has not been uploaded yet")
        }
        FetchMediaError::TimedOut(_) => {
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unknown, error.to_string())
        }
        FetchMediaError::Unreachable { server, cause } => {
            tracing::info!(%server, cause, "media of another server could not be fetched");
            ApiError::new(
                StatusCode::BAD_GATEWAY,
                ErrorCode::Unknown,
                format!("The media could not be fetched from {server}"),
            )
        }
        FetchMediaError::Internal(cause) => ApiError::internal(cause),
    }
}

fn disk(error: &std::io::Error) -> ApiError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        tracing::error!("a media file was not kept: the disk is full");
        return ApiError::unavailable("The server has no storage space left; nothing was saved");
    }
    ApiError::internal(error)
}
