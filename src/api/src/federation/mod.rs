//! The server-server API: one file for each endpoint.

use axum::{Router, extract::DefaultBodyLimit};

use crate::App;

/// Largest body of a federation request, in bytes: a transaction holds up to 50 PDUs of 64 KiB and 100 EDUs, and the state in
/// the answer to an invite or knock can be larger than that.
const BODY_BYTES_MAX: usize = 16 << 20;

pub fn router() -> Router<App> {
    Router::new().layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}
