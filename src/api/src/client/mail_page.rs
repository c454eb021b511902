//! The pages that links in mails lead to: made of the operator's templates.

use axum::response::{IntoResponse, Response};
use chappe_services::emails::Emails;
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::error::ApiError;

/// A page made of the template of this name; `values` makes of the service's name what the template is given.
///
/// # Errors
/// 404 on a server that sends no mail.
pub(super) fn page(
    emails: &Emails,
    status: StatusCode,
    name: &str,
    values: impl FnOnce(&str) -> serde_json::Value,
) -> Result<Response, ApiError> {
    let Some(mail) = emails.mail() else { return Err(ApiError::unrecognized_path()) };
    let html = mail.templates().render(name, values(mail.service_name())).map_err(ApiError::internal)?;
    let headers: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'none'; style-src 'unsafe-inline'; form-action *; frame-ancestors 'none'",
            ),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // The address of the page holds the token.
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    Ok((status, headers, html).into_response())
}
