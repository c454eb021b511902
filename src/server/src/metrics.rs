//! `GET /metrics`: figures for monitoring, as OpenMetrics text, on listeners of their own.
//!
//! What is counted is decided in the services; here it gets names. Nothing is counted while nobody asks.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chappe_protocol::clock::Clock;
use chappe_services::{
    delivery_health::{self, DeliveryHealth},
    sync::waiters::Waiters,
};
use chappe_store::Store;
use prometheus_client::{
    encoding::text,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::sync::Mutex;

use crate::config::Secret;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counting is no cheap work: an answer is good for so long.
const KEPT: Duration = Duration::from_secs(10);

/// What is counted, and where.
pub struct Metrics {
    store: Store,
    waiters: Waiters,
    clock: Arc<dyn Clock>,
    token: Option<Secret>,
    last: Mutex<Option<(Instant, String)>>,
}

#[derive(Debug, thiserror::Error)]
enum CountError {
    #[error("the database cannot be read: {0}")]
    Store(#[from] chappe_services::StoreError),
    #[error("the figures cannot be written: {0}")]
    Format(#[from] std::fmt::Error),
    #[error("the counting was broken off: {0}")]
    Aborted(#[from] tokio::task::JoinError),
}

impl Metrics {
    pub fn new(store: Store, waiters: Waiters, clock: Arc<dyn Clock>, token: Option<Secret>) -> Self {
        Self { store, waiters, clock, token, last: Mutex::new(None) }
    }

    /// Whether whoever asks shows the token, if there is one.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        shown.is_some_and(|shown| is_same(shown, token.expose().as_bytes()))
    }

    async fn count(&self) -> Result<String, CountError> {
        let mut last = self.last.lock().await;
        if let Some((counted, text)) = last.as_ref()
            && counted.elapsed() < KEPT
        {
            return Ok(text.clone());
        }
        let (store, now_ms) = (self.store.clone(), self.clock.now_ms());
        let health = tokio::task::spawn_blocking(move || delivery_health::count(&store, now_ms)).await??;
        let text = write(&health, now_ms, self.waiters.waiting())?;
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

/// Compares in a time that does not tell where two texts differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
}

/// The metrics' endpoint, and nothing else.
pub fn router(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(handle)).with_state(Arc::new(metrics))
}

async fn handle(State(metrics): State<Arc<Metrics>>, headers: HeaderMap) -> Response {
    if !metrics.admits(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match metrics.count().await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be counted");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn write(health: &DeliveryHealth, now_ms: u64, waiting_polls: usize) -> Result<String, std::fmt::Error> {
    type ByServer<G> = Family<Vec<(String, String)>, G>;
    let by_server = |server: &str| vec![("server".to_owned(), server.to_owned())];
    let oldest = ByServer::<Gauge<f64, AtomicU64>>::default();
    let queued = ByServer::<Gauge>::default();
    for (server, waiting) in &health.waiting {
        let age = Duration::from_millis(now_ms.saturating_sub(waiting.oldest_at_ms));
        oldest.get_or_create(&by_server(server.as_str())).set(age.as_secs_f64());
        queued.get_or_create(&by_server(server.as_str())).set(clamp(waiting.edus));
    }
    let mut registry = Registry::with_prefix("chappe");
    registry.register(
        "to_device_oldest_age_seconds",
        "Age of the oldest message to a device that waits to be sent to a server",
        oldest,
    );
    registry.register(
        "to_device_waiting",
        "Transmissions of messages to devices that wait to be sent to a server",
        queued,
    );
    for (name, help, value) in [
        (
            "devices_without_one_time_keys",
            "Local devices with neither one-time keys nor a fallback key",
            health.devices_without_keys,
        ),
        ("devices_on_fallback_key", "Local devices that have a fallback key only", health.devices_on_fallback),
        ("device_lists_stale", "Remote users whose device lists are out of date here", health.stale_lists),
        ("polls_waiting", "Syncs that wait for something to happen", waiting_polls.try_into().unwrap_or(u64::MAX)),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(clamp(value));
        registry.register(name, help, gauge);
    }
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

fn clamp(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use chappe_protocol::clock::ManualClock;
    use chappe_services::delivery_health::Waiting;
    use ruma::owned_server_name;
    use tower::ServiceExt;

    use super::*;

    fn metrics(token: Option<&str>) -> Router {
        let store = Store::in_memory();
        let waiters = Waiters::follow(&store);
        let token = token.map(|token| serde_json::from_value(token.into()).unwrap());
        router(Metrics::new(store, waiters, Arc::new(ManualClock::new(0)), token))
    }

    async fn status(router: Router, path: &str, token: Option<&str>) -> StatusCode {
        let mut request = Request::get(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    }

    #[tokio::test]
    async fn figures_are_shown_to_who_shows_the_token() {
        assert_eq!(status(metrics(None), "/metrics", None).await, StatusCode::OK);
        assert_eq!(status(metrics(Some("secret")), "/metrics", None).await, StatusCode::UNAUTHORIZED);
        assert_eq!(status(metrics(Some("secret")), "/metrics", Some("Secret")).await, StatusCode::UNAUTHORIZED);
        assert_eq!(status(metrics(Some("secret")), "/metrics", Some("secret")).await, StatusCode::OK);
        assert_eq!(status(metrics(None), "/_matrix/client/versions", None).await, StatusCode::NOT_FOUND);
    }

    #[test]
    fn figures_have_names_units_and_servers() {
        let mut health = DeliveryHealth { devices_without_keys: 2, stale_lists: 3, ..DeliveryHealth::default() };
        health.waiting.insert(owned_server_name!("there.example"), Waiting { edus: 4, oldest_at_ms: 1_000 });
        let text = write(&health, 61_500, 7).unwrap();
        for line in [
            "chappe_to_device_oldest_age_seconds{server=\"there.example\"} 60.5",
            "chappe_to_device_waiting{server=\"there.example\"} 4",
            "chappe_devices_without_one_time_keys 2",
            "chappe_devices_on_fallback_key 0",
            "chappe_device_lists_stale 3",
            "chappe_polls_waiting 7",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
