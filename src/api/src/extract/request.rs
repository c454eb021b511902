//! [`Ruma`]: a request parsed into ruma's type for its endpoint.

use std::any::TypeId;

use axum::{
    extract::{FromRequest, FromRequestParts, RawPathParams, Request, rejection::BytesRejection},
    response::IntoResponse,
};
use bytes::Bytes;
use http::StatusCode;
use ruma::api::{
    IncomingRequest, IncomingRequestExt,
    client::{session::login, uiaa::UiaaResponse},
    error::{DeserializationError, FromHttpRequestError},
    path_builder::PathBuilder,
};
use serde::de::IgnoredAny;
use serde_json::Value as JsonValue;

use crate::error::ApiError;

/// A request of ruma's type `T`: path, query, headers and body. Reads the body, so it is a handler's last argument; what is
/// wrong with it is reported only after the extractors before it, those of the access token among them.
pub struct Ruma<T>(pub T);

impl<T, S> FromRequest<S> for Ruma<T>
where
    T: IncomingRequest + 'static,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let path_arguments = path_arguments::<T, S>(&mut parts, state).await?;
        let path_arguments: Vec<&str> = path_arguments.iter().map(String::as_str).collect();
        let mut body =
            Bytes::from_request(Request::from_parts(parts.clone(), body), state).await.map_err(body_error)?;
        if std::str::from_utf8(&body).is_err() {
            return Err(ApiError::not_json("The request body is not UTF-8"));
        }
        if TypeId::of::<T::EndpointError>() == TypeId::of::<UiaaResponse>() {
            body = with_user_identifier(body);
        }
        if TypeId::of::<T>() == TypeId::of::<login::v3::Request>() {
            check_login_type(&body)?;
        }
        check_no_array(&body)?;
        let request = http::Request::from_parts(parts, &*body);
        T::try_from_http_request(request, &path_arguments).map(Self).map_err(|error| request_error(error, &body))
    }
}

/// The path's variables, decoded, in order. A path that leaves off its last variable (an empty state key) has it as "".
pub(super) async fn path_arguments<T: IncomingRequest, S: Send + Sync>(
    parts: &mut http::request::Parts,
    state: &S,
) -> Result<Vec<String>, ApiError> {
    let expected = T::PATH_BUILDER.all_paths().next().map_or(0, |path| path.matches('{').count());
    let mut arguments: Vec<String> = match RawPathParams::from_request_parts(parts, state).await {
        Ok(params) => params.iter().map(|(_, value)| value.to_owned()).collect(),
        Err(rejection) if rejection.status() == StatusCode::BAD_REQUEST => {
            return Err(ApiError::invalid_param("The path is not UTF-8"));
        }
        Err(_) => Vec::new(),
    };
    arguments.resize(expected, String::new());
    Ok(arguments)
}

pub(super) fn body_error(rejection: BytesRejection) -> ApiError {
    match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large("The request body is too large"),
        _ => ApiError::not_json("The request body could not be read"),
    }
}

pub(super) fn request_error(error: FromHttpRequestError, body: &[u8]) -> ApiError {
    match error {
        FromHttpRequestError::Deserialization(DeserializationError::Json(error)) => json_error(&error, body),
        FromHttpRequestError::Deserialization(error) => ApiError::invalid_param(error.to_string()),
        FromHttpRequestError::MethodMismatch { .. } => ApiError::unrecognized_method(),
        _ => ApiError::invalid_param("The request is malformed"),
    }
}

/// M_NOT_JSON for what is no JSON, M_BAD_JSON for JSON of the wrong shape.
pub(super) fn json_error(error: &serde_json::Error, body: &[u8]) -> ApiError {
    // The error does not say: an enum that is no string counts as a syntax error.
    match is_json(body) {
        true => ApiError::bad_json(error.to_string()),
        false => ApiError::not_json(error.to_string()),
    }
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

/// Refuses an array where an object belongs: serde reads a struct from either.
pub(super) fn check_no_array(body: &[u8]) -> Result<(), ApiError> {
    match body.trim_ascii_start().starts_with(b"[") && is_json(body) {
        true => Err(ApiError::bad_json("The request body must be an object")),
        false => Ok(()),
    }
}

/// Refuses a login without a type: ruma's type takes for granted that there is one, and panics.
fn check_login_type(body: &[u8]) -> Result<(), ApiError> {
    match serde_json::from_slice::<JsonValue>(body) {
        Ok(login) if login.get("type").is_none() => Err(ApiError::missing_param("The login has no type")),
        _ => Ok(()),
    }
}

/// Gives `auth` of type `m.login.password` an `identifier` where it has only the older `user` field, which clients still send
/// and ruma's type does not know.
fn with_user_identifier(body: Bytes) -> Bytes {
    let rewritten = || -> Option<Bytes> {
        let mut json: JsonValue = serde_json::from_slice(&body).ok()?;
        let auth = json.get_mut("auth")?.as_object_mut()?;
        if auth.get("type")?.as_str()? != "m.login.password" || auth.contains_key("identifier") {
            return None;
        }
        let user = auth.get("user")?.as_str()?.to_owned();
        auth.insert("identifier".to_owned(), serde_json::json!({ "type": "m.id.user", "user": user }));
        serde_json::to_vec(&json).ok().map(Bytes::from)
    };
    rewritten().unwrap_or(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_stage_with_the_older_user_field_gets_an_identifier() {
        let body = Bytes::from_static(br#"{"auth":{"type":"m.login.password","user":"alice","password":"x"}}"#);
        let json: JsonValue = serde_json::from_slice(&with_user_identifier(body)).unwrap();
        assert_eq!(json["auth"]["identifier"]["user"], "alice");
    }

    #[test]
    fn body_that_is_no_json_is_left_as_it_is() {
        assert_eq!(with_user_identifier(Bytes::from_static(b"{nope")), Bytes::from_static(b"{nope"));
    }
}
