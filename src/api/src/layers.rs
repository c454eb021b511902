//! What surrounds every endpoint: a span, contained panics, cross-origin headers, and answers for unknown paths and methods.

use std::{any::Any, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::MatchedPath,
    response::{IntoResponse, Response},
};
use http::{HeaderName, Method, Request, header};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{Any as AnyOrigin, CorsLayer},
    trace::TraceLayer,
};
use tracing::Span;

use crate::{App, error::ApiError};

/// How long browsers may keep the answer to a preflight request.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(86_400);

pub(crate) fn apply(router: Router<App>) -> Router<App> {
    let trace =
        TraceLayer::new_for_http().make_span_with(request_span).on_request(()).on_response(on_response).on_failure(());
    router
        .method_not_allowed_fallback(async || ApiError::unrecognized_method())
        .fallback(async || ApiError::unrecognized_path())
        .layer(CatchPanicLayer::custom(on_panic))
        .layer(cors())
        .layer(trace)
}

/// Client-server API, "Web Browser Clients": any origin may call, with these methods and headers.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AnyOrigin)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ])
        .allow_headers([
            HeaderName::from_static("x-requested-with"),
            header::CONTENT_TYPE,
            header::AUTHORIZATION,
            header::DATE,
        ])
        .max_age(PREFLIGHT_MAX_AGE)
}

/// The span names the route and not the address: queries may hold tokens.
fn request_span(request: &Request<Body>) -> Span {
    let path = request.extensions().get::<MatchedPath>().map_or_else(|| request.uri().path(), MatchedPath::as_str);
    tracing::info_span!("request", method = %request.method(), path, "user.id" = tracing::field::Empty, origin = tracing::field::Empty)
}

fn on_response(response: &Response, latency: Duration, _: &Span) {
    tracing::debug!(status = response.status().as_u16(), duration_ms = latency.as_millis() as u64, "answered");
}

fn on_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    ApiError::internal(format_args!("a handler panicked: {}", text.unwrap_or("no message"))).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::{Method, Request, StatusCode, header};
    use serde_json::Value as JsonValue;

    use crate::test_app::TestApp;

    #[tokio::test]
    async fn unknown_paths_and_methods_are_unrecognized() {
        let server = TestApp::new();
        let (status, answer) = server.get("/_matrix/client/v3/nothing/here", None).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::NOT_FOUND, &"M_UNRECOGNIZED".into()));
        let (status, answer) = server.call(Method::PATCH, "/_matrix/client/v3/login", None, JsonValue::Null).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::METHOD_NOT_ALLOWED, &"M_UNRECOGNIZED".into()));
    }

    #[tokio::test]
    async fn browsers_of_any_origin_may_call() {
        let server = TestApp::new();
        let preflight = Request::options("/_matrix/client/v3/login")
            .header(header::ORIGIN, "https://app.example")
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type");
        let response = server.send(preflight.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(response.headers()[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().contains("authorization"));

        let get = Request::get("/_matrix/client/v3/unknown").header(header::ORIGIN, "https://app.example");
        let response = server.send(get.body(Body::empty()).unwrap()).await;
        assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*", "errors too are for the page to read");
    }
}
