//! Errors of rooms as answers.

use chappe_rooms::{RemoteError, RoomError, timeline::InvalidToken};
use http::StatusCode;
use ruma::api::error::ErrorCode;

use super::ApiError;

impl From<RoomError> for ApiError {
    fn from(error: RoomError) -> Self {
        let bad_request = |errcode: ErrorCode, message: String| Self::new(StatusCode::BAD_REQUEST, errcode, message);
        match error {
            RoomError::NotFound(message) => Self::not_found(message),
            RoomError::Forbidden(message) => Self::forbidden(message),
            RoomError::InviteBlocked => Self::new(StatusCode::FORBIDDEN, ErrorCode::InviteBlocked, error.to_string()),
            RoomError::Invalid(message) => Self::invalid_param(message),
            RoomError::MissingParam(message) => Self::missing_param(message),
            RoomError::BadJson(message) => Self::bad_json(message),
            RoomError::TooLarge(message) => Self::too_large(message),
            RoomError::NotThreadRoot(message) => bad_request(ErrorCode::Unknown, message),
            RoomError::DuplicateAnnotation => bad_request(ErrorCode::DuplicateAnnotation, error.to_string()),
            RoomError::MembersUnknown => Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unknown, error.to_string()),
            RoomError::InUse(message) => bad_request(ErrorCode::RoomInUse, message),
            RoomError::UnableToAuthoriseJoin(message) => bad_request(ErrorCode::UnableToAuthorizeJoin, message),
            RoomError::UnableToGrantJoin(message) => bad_request(ErrorCode::UnableToGrantJoin, message),
            RoomError::UnsupportedVersion(_) => bad_request(ErrorCode::UnsupportedRoomVersion, error.to_string()),
            RoomError::IncompatibleVersion(ref version) => {
                let version = version.to_string();
                bad_request(ErrorCode::IncompatibleRoomVersion, error.to_string()).with("room_version", version)
            }
            RoomError::Remote(error) => error.into(),
            RoomError::Store(error) => error.into(),
            RoomError::Commit(error) => error.into(),
        }
    }
}

impl From<RemoteError> for ApiError {
    /// A refusal of another server that a client can make sense of is passed on; everything else is a bad gateway.
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Refused { status, errcode, message, .. } if (400..500).contains(&status) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
                // Who is not authorised there is this server: nothing the client could mend by logging in again.
                let status = if status == StatusCode::UNAUTHORIZED { StatusCode::FORBIDDEN } else { status };
                let errcode = errcode.map_or(ErrorCode::Unknown, |errcode| errcode.as_str().into());
                Self::new(status, errcode, message)
            }
            RemoteError::Denied(_) => Self::forbidden(error.to_string()),
            RemoteError::Refused { .. } | RemoteError::Unreachable(_) => {
                tracing::info!(%error, "another server could not help");
                Self::new(
                    StatusCode::BAD_GATEWAY,
                    ErrorCode::Unknown,
                    "The other server could not be reached or gave no usable answer",
                )
            }
        }
    }
}

impl From<InvalidToken> for ApiError {
    fn from(error: InvalidToken) -> Self {
        Self::invalid_param(error.to_string())
    }
}
