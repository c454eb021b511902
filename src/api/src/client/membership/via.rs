//! [`Via`]: the servers that a client names to reach a room by.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;
use ruma::{OwnedServerName, ServerName};
use url::form_urlencoded;

/// How many are looked at.
const SERVERS_MAX: usize = 50;

/// The query parameters `via`, or `server_name`, as they were called before. What is no server name is passed over.
pub struct Via(pub Vec<OwnedServerName>);

impl<S: Send + Sync> FromRequestParts<S> for Via {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let query = parts.uri.query().unwrap_or_default();
        let values = |name: &str| -> Vec<OwnedServerName> {
            let pairs = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
            pairs.filter_map(|(_, value)| ServerName::parse(&*value).ok()).take(SERVERS_MAX).collect()
        };
        let via = values("via");
        Ok(Self(if via.is_empty() { values("server_name") } else { via }))
    }
}
