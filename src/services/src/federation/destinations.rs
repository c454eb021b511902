//! Which servers do not answer at the moment, and when they are worth another try.
//!
//! Background traffic to a failing server waits; what a user asks for may try anyway. The pauses grow from seconds to an hour,
//! survive a restart, and end at once when the server is heard from.

use std::{collections::HashMap, sync::Arc};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, Direction, Store, StoreError,
    tables::destinations::{DESTINATIONS, DestinationRecord},
};
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{Notify, futures::Notified};

/// The pause after the first failure, in milliseconds.
const PAUSE_FIRST_MS: u64 = 2_000;
/// The longest pause, in milliseconds.
const PAUSE_MAX_MS: u64 = 3_600_000;

/// The state of every failing server. Cheap to clone.
#[derive(Clone)]
pub struct Destinations {
    store: Store,
    clock: Arc<dyn Clock>,
    failing: Arc<Mutex<HashMap<OwnedServerName, DestinationRecord>>>,
    /// Told when a pause ends before its time.
    pause_ended: Arc<Notify>,
}

impl Destinations {
    /// Reads what was known before the restart.
    pub fn load(store: Store, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let failing = store.scan(&DESTINATIONS, &(), Direction::Forward).collect::<Result<_, _>>()?;
        Ok(Self { store, clock, failing: Arc::new(Mutex::new(failing)), pause_ended: Arc::default() })
    }

    /// When background traffic to this server may go on, in milliseconds since the epoch; `None`: now.
    pub fn get_retry_at_ms(&self, server: &ServerName) -> Option<u64> {
        let retry_at_ms = self.failing.lock().get(server)?.retry_at_ms;
        (retry_at_ms > self.clock.now_ms()).then_some(retry_at_ms)
    }

    /// Since when the server has been failing, in milliseconds since the epoch; `None` if it is not.
    pub fn get_failing_since_ms(&self, server: &ServerName) -> Option<u64> {
        self.failing.lock().get(server).map(|record| record.failing_since_ms)
    }

    /// Whether the server failed when it was last asked.
    pub fn is_failing(&self, server: &ServerName) -> bool {
        self.failing.lock().contains_key(server)
    }

    /// The server answered.
    pub fn record_success(&self, server: &ServerName) {
        if self.failing.lock().remove(server).is_some() {
            tracing::info!(destination = %server, "server answers again");
            self.persist(server, None);
            self.pause_ended.notify_waiters();
        }
    }

    /// Waits, from the moment of this call, until the pause of any server ends before its time: it was heard from, or it answers.
    pub fn end_of_any_pause(&self) -> Notified<'_> {
        self.pause_ended.notified()
    }

    /// The server did not answer, or not usefully. Answers when it is worth another try, in milliseconds since the epoch.
    pub fn record_failure(&self, server: &ServerName) -> u64 {
        let now_ms = self.clock.now_ms();
        let record = {
            let mut failing = self.failing.lock();
            let record = match failing.get(server) {
                // Several requests that fail together are one failure.
                Some(known) if known.retry_at_ms > now_ms => return known.retry_at_ms,
                Some(known) => {
                    let pause_ms = with_jitter(known.pause_ms.saturating_mul(2).clamp(PAUSE_FIRST_MS, PAUSE_MAX_MS));
                    DestinationRecord { retry_at_ms: now_ms + pause_ms, pause_ms, ..*known }
                }
                None => {
                    let pause_ms = with_jitter(PAUSE_FIRST_MS);
                    DestinationRecord { failing_since_ms: now_ms, retry_at_ms: now_ms + pause_ms, pause_ms }
                }
            };
            failing.insert(server.to_owned(), record);
            record
        };
        self.persist(server, Some(record));
        record.retry_at_ms
    }

    /// The server was heard from: the next try may be made now. Answers whether it was failing.
    ///
    /// The length of the pause is kept: a server that can reach us without being reachable itself is not hammered.
    pub fn record_contact(&self, server: &ServerName) -> bool {
        let mut failing = self.failing.lock();
        let Some(record) = failing.get_mut(server) else { return false };
        let now_ms = self.clock.now_ms();
        // Not more often than every half minute, however often it calls.
        let waited_ms = now_ms.saturating_sub(record.retry_at_ms.saturating_sub(record.pause_ms));
        if record.retry_at_ms > now_ms && waited_ms >= record.pause_ms.min(30_000) / 2 {
            record.retry_at_ms = now_ms;
            self.pause_ended.notify_waiters();
        }
        record.retry_at_ms <= now_ms
    }

    /// Not waited for: losing this in a crash costs one early try.
    fn persist(&self, server: &ServerName, record: Option<DestinationRecord>) {
        let mut batch = Batch::new();
        match record {
            Some(record) => batch.put(&DESTINATIONS, &server.to_owned(), &record),
            None => batch.delete(&DESTINATIONS, &server.to_owned()),
        }
        if let Err(error) = self.store.enqueue(batch) {
            tracing::debug!(destination = %server, %error, "state of a destination was not stored");
        }
    }
}

/// Up to a fifth longer, so that servers which failed together are not all tried together.
fn with_jitter(pause_ms: u64) -> u64 {
    pause_ms + rand::random_range(0..=pause_ms / 5)
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use ruma::server_name;

    use super::*;

    fn destinations() -> (Destinations, Arc<ManualClock>, Store) {
        let store = Store::in_memory();
        let clock = Arc::new(ManualClock::new(1_000_000));
        (Destinations::load(store.clone(), clock.clone()).expect("an empty store"), clock, store)
    }

    #[test]
    fn pause_grows_to_an_hour_and_ends_with_success() {
        let (destinations, clock, _) = destinations();
        let server = server_name!("down.example");
        let mut last_pause_ms = 0;
        for _ in 0..20 {
            let pause_ms = destinations.record_failure(server) - clock.now_ms();
            assert!(pause_ms <= PAUSE_MAX_MS + PAUSE_MAX_MS / 5);
            assert!(pause_ms >= last_pause_ms || pause_ms >= PAUSE_MAX_MS);
            last_pause_ms = pause_ms;
            clock.advance(pause_ms + 1);
        }
        assert!(last_pause_ms >= PAUSE_MAX_MS);
        destinations.record_success(server);
        assert_eq!(destinations.get_retry_at_ms(server), None);
        assert!(!destinations.is_failing(server));
    }

    #[test]
    fn requests_failing_together_count_once() {
        let (destinations, _, _) = destinations();
        let server = server_name!("down.example");
        let first = destinations.record_failure(server);
        assert_eq!(destinations.record_failure(server), first);
    }

    #[test]
    fn failure_survives_a_restart() {
        let (destinations, clock, store) = destinations();
        let server = server_name!("down.example");
        let retry_at_ms = destinations.record_failure(server);
        let restarted = Destinations::load(store, clock).expect("a readable store");
        assert_eq!(restarted.get_retry_at_ms(server), Some(retry_at_ms));
    }

    #[test]
    fn contact_ends_a_long_pause_but_not_a_short_one_at_once() {
        let (destinations, clock, _) = destinations();
        let server = server_name!("down.example");
        assert!(!destinations.record_contact(server));
        for _ in 0..10 {
            let retry_at_ms = destinations.record_failure(server);
            clock.set(retry_at_ms + 1);
        }
        destinations.record_failure(server);
        assert!(!destinations.record_contact(server));
        clock.advance(20_000);
        assert!(destinations.get_retry_at_ms(server).is_some());
        clock.advance(400_000);
        assert!(destinations.record_contact(server));
        assert_eq!(destinations.get_retry_at_ms(server), None);
    }
}
