//! [`RumaResponse`]: ruma's response type as an HTTP response.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use ruma::api::{OutgoingResponse, OutgoingResponseExt};

use crate::error::ApiError;

/// An endpoint's response. Its content type is exactly `application/json`, unless ruma's type says otherwise.
pub struct RumaResponse<T>(pub T);

impl<T: OutgoingResponse> IntoResponse for RumaResponse<T> {
    fn into_response(self) -> Response {
        match self.0.try_into_http_response::<Vec<u8>>() {
            Ok(response) => response.map(Body::from),
            Err(error) => ApiError::internal(error).into_response(),
        }
    }
}
