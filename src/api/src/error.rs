//! What a request that fails is answered with: status, errcode, message.
//!
//! Endpoints return `Result<_, ApiError>`; each service's error enum becomes an [`ApiError`] in one `From` of the module
//! [`services`](self::services) or next to the family that owns it. Causes that concern only the operator are logged here and
//! never sent.

use std::{borrow::Cow, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ruma::api::error::ErrorCode;
use serde_json::{Map, Value as JsonValue};

mod rooms;
mod services;

/// A refusal or failure, as the client sees it (client-server API, "Standard error response").
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    /// Absent only in the first answer of user-interactive authentication, which is no error.
    errcode: Option<ErrorCode>,
    message: Cow<'static, str>,
    extra: Map<String, JsonValue>,
    retry_after: Option<Duration>,
}

impl ApiError {
    pub fn new(status: StatusCode, errcode: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, errcode: Some(errcode), message: message.into(), extra: Map::new(), retry_after: None }
    }

    /// 401 with fields and no errcode: user-interactive authentication goes on.
    pub fn challenge(fields: Map<String, JsonValue>) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            errcode: None,
            message: Cow::Borrowed(""),
            extra: fields,
            retry_after: None,
        }
    }

    /// Adds a field beside `errcode` and `error`.
    pub fn with(mut self, key: &str, value: impl Into<JsonValue>) -> Self {
        self.extra.insert(key.to_owned(), value.into());
        self
    }

    /// Adds many fields.
    pub fn with_all(mut self, fields: Map<String, JsonValue>) -> Self {
        self.extra.extend(fields);
        self
    }

    /// 400 M_BAD_JSON: JSON of the wrong shape.
    pub fn bad_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::BadJson, message)
    }

    /// 400 M_NOT_JSON: no JSON at all.
    pub fn not_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::NotJson, message)
    }

    /// 400 M_INVALID_PARAM.
    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidParam, message)
    }

    /// 400 M_MISSING_PARAM.
    pub fn missing_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::MissingParam, message)
    }

    /// 403 M_FORBIDDEN.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message)
    }

    /// 403 M_GUEST_ACCESS_FORBIDDEN.
    pub fn guest_forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::GuestAccessForbidden, "Guests may not do this")
    }

    /// 400 M_EXCLUSIVE: it belongs to an application service, or is not one's own.
    pub fn exclusive(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::Exclusive, message)
    }

    /// 404 M_NOT_FOUND.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
    }

    /// 401 M_MISSING_TOKEN.
    pub fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::MissingToken, "Missing access token")
    }

    /// 401 M_UNKNOWN_TOKEN. A soft logout tells the client to keep its data and refresh or log in again.
    pub fn unknown_token(soft_logout: bool) -> Self {
        let message = if soft_logout { "The access token has expired" } else { "Unknown access token" };
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::UnknownToken, message).with("soft_logout", soft_logout)
    }

    /// 401 M_USER_LOCKED: the client keeps its data, for when the account is unlocked.
    pub fn user_locked() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorCode::UserLocked, "This account has been locked")
            .with("soft_logout", true)
    }

    /// 403 M_USER_SUSPENDED.
    pub fn user_suspended() -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorCode::UserSuspended, "You cannot do this while your account is suspended")
    }

    /// 429 M_LIMIT_EXCEEDED, with `Retry-After` and `retry_after_ms`.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::LimitExceeded, "Too many requests")
            .with("retry_after_ms", u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX));
        error.retry_after = Some(retry_after);
        error
    }

    /// 413 M_TOO_LARGE.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, message)
    }

    /// 404 M_UNRECOGNIZED: no endpoint has this path.
    pub fn unrecognized_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::Unrecognized, "No such endpoint")
    }

    /// 405 M_UNRECOGNIZED: the endpoint does not have this method.
    pub fn unrecognized_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unrecognized, "The endpoint does not know this method")
    }

    /// 500 M_UNKNOWN. The cause is logged, and not sent.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "request failed for an internal reason");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown, "Internal server error")
    }

    /// 503 M_UNKNOWN: the server cannot do this now, for a reason that the client may know.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unknown, message)
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn errcode(&self) -> Option<&ErrorCode> {
        self.errcode.as_ref()
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let errcode = self.errcode.as_ref().map_or("-", |errcode| errcode.as_str());
        write!(f, "{} {errcode}: {}", self.status.as_u16(), self.message)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = self.extra;
        if let Some(errcode) = &self.errcode {
            body.insert("errcode".to_owned(), errcode.as_str().into());
            body.insert("error".to_owned(), self.message.as_ref().into());
        }
        let mut response = (self.status, JsonValue::Object(body).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(retry_after) = self.retry_after {
            // The header counts whole seconds: round up, so that a client that obeys it is not refused again.
            headers
                .insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_millis().div_ceil(1000).max(1) as u64));
        }
        response
    }
}
