//! Other servers' media: fetched once, however many ask, and kept like our own.
//!
//! How the bytes come over the network is a trait, [`MediaTransport`], which the federation client implements.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
    stream::BoxStream,
};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::Semaphore;

/// A file on its way from another server.
pub struct RemoteBody {
    pub content_type: Option<String>,
    pub filename: Option<String>,
    pub body: BoxStream<'static, Result<Bytes, String>>,
}

/// Gets media from the server it belongs to: `GET /_matrix/federation/v1/media/download/{mediaId}`, following a `Location`, and the
/// older `/_matrix/media/v3/download` where a server does not know that endpoint.
pub trait MediaTransport: Send + Sync {
    fn fetch_media<'a>(
        &'a self,
        server: &'a ServerName,
        media_id: &'a str,
    ) -> BoxFuture<'a, Result<RemoteBody, FetchMediaError>>;
}

/// Why another server's media could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchMediaError {
    #[error("{0} does not have this media")]
    NotFound(OwnedServerName),
    #[error("the media is larger than this server keeps")]
    TooLarge,
    /// The federation policy does not allow this server.
    #[error("this server does not talk to {0}")]
    NotAllowed(OwnedServerName),
    /// The id is reserved there, but nothing has been uploaded yet.
    #[error("the media is not uploaded yet")]
    NotYetUploaded,
    #[error("{0} did not answer in time")]
    TimedOut(OwnedServerName),
    #[error("{server} could not be asked: {cause}")]
    Unreachable { server: OwnedServerName, cause: String },
    /// Our own trouble.
    #[error("keeping fetched media: {0}")]
    Internal(String),
}

type Outcome<T> = Result<T, Arc<FetchMediaError>>;
type Flight<T> = Shared<BoxFuture<'static, Outcome<T>>>;
/// By server and media id.
type UnderWay<T> = HashMap<(OwnedServerName, String), Flight<T>>;

/// Fetches under way, so that each file is fetched once at a time, and not too many files at all.
pub(super) struct Flights<T> {
    under_way: Arc<Mutex<UnderWay<T>>>,
    slots: Arc<Semaphore>,
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    pub(super) fn new(concurrent_max: usize) -> Self {
        Self { under_way: Arc::default(), slots: Arc::new(Semaphore::new(concurrent_max)) }
    }

    /// Joins the fetch of this media, or starts it. It goes on when the one who started it goes away: others may be waiting.
    pub(super) async fn join(
        &self,
        server: &ServerName,
        media_id: &str,
        time_max: Duration,
        fetch: impl Future<Output = Result<T, FetchMediaError>> + Send + 'static,
    ) -> Outcome<T> {
        let key = (server.to_owned(), media_id.to_owned());
        let flight = {
            let mut under_way = self.under_way.lock();
            if let Some(flight) = under_way.get(&key) {
                flight.clone()
            } else {
                let flight = self.start(key.clone(), time_max, fetch);
                under_way.insert(key, flight.clone());
                flight
            }
        };
        flight.await
    }

    fn start(
        &self,
        key: (OwnedServerName, String),
        time_max: Duration,
        fetch: impl Future<Output = Result<T, FetchMediaError>> + Send + 'static,
    ) -> Flight<T> {
        let under_way = self.under_way.clone();
        let slots = self.slots.clone();
        let task = tokio::spawn(async move {
            let fetched = tokio::time::timeout(time_max, async {
                let _slot = slots.acquire().await.map_err(|closed| FetchMediaError::Internal(closed.to_string()))?;
                fetch.await
            })
            .await
            .unwrap_or_else(|_| Err(FetchMediaError::TimedOut(key.0.clone())));
            under_way.lock().remove(&key);
            fetched.map_err(Arc::new)
        });
        task.map(|joined| joined.unwrap_or_else(|panic| Err(Arc::new(FetchMediaError::Internal(panic.to_string())))))
            .boxed()
            .shared()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use ruma::server_name;

    use super::*;

    #[tokio::test]
    async fn concurrent_requests_share_one_fetch() {
        let flights = Arc::new(Flights::<u32>::new(4));
        let fetches = Arc::new(AtomicU32::new(0));
        let ask = || {
            let fetches = fetches.clone();
            let flights = flights.clone();
            async move {
                let fetch = async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(fetches.fetch_add(1, Ordering::SeqCst))
                };
                flights.join(server_name!("b.example"), "id", Duration::from_secs(5), fetch).await
            }
        };
        let (first, second) = tokio::join!(ask(), ask());
        assert_eq!((first.unwrap(), second.unwrap()), (0, 0));
        assert_eq!(ask().await.unwrap(), 1, "a later request fetches again");
    }

    #[tokio::test]
    async fn fetch_that_takes_too_long_fails() {
        let flights = Flights::<u32>::new(4);
        let fetch = std::future::pending::<Result<u32, FetchMediaError>>();
        let error = flights.join(server_name!("b.example"), "id", Duration::from_millis(10), fetch).await.unwrap_err();
        assert!(matches!(*error, FetchMediaError::TimedOut(_)));
    }
}
