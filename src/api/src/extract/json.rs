//! Requests and responses that ruma has no fitting type for.

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Request, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderValue, header, request::Parts};
use serde::de::DeserializeOwned;

use super::request::{body_error, check_no_array, json_error};
use crate::error::ApiError;

/// A JSON body. An empty body counts as `{}`, as clients leave it off where nothing in it is needed.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = Bytes::from_request(request, state).await.map_err(body_error)?;
        let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
        check_no_array(body)?;
        serde_json::from_slice(body).map(Self).map_err(|error| json_error(&error, body))
    }
}

/// The variables of the path, decoded and parsed.
pub struct PathParams<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = Path::<T>::from_request_parts(parts, state).await;
        params
            .map(|Path(params)| Self(params))
            .map_err(|rejection: PathRejection| ApiError::invalid_param(rejection.body_text()))
    }
}

/// A response of JSON text that is already written out.
pub struct JsonText(pub String);

impl IntoResponse for JsonText {
    fn into_response(self) -> Response {
        let mut response = self.0.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}
