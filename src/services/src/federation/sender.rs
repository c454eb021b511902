//! Sends what waits in the outgoing table, one task per server that has something waiting.
//!
//! The sender follows the log: rows are written by whoever made the event or EDU, inside the same batch (see `crate::edu` for EDUs), and are deleted here once
//! the other server acknowledged them. So nothing is lost in a crash, and after one the sender just goes on. A row may then be sent
//! twice; events carry their id and to-device messages their `message_id`, so that does no harm.
//!
//! A server that is away for long has no events queued any more, and is caught up with the newest ones of its rooms; see
//! [`catch_up`].
//!
//! A server that is down costs a sleeping task. Servers that answer and servers that have been failing send through separate
//! slots, so any number of dead ones does not delay the living.

mod catch_up;
mod transaction;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, Direction, Position, Store, StoreError, Topic,
    tables::{catch_up::CATCH_UP, outgoing::OUTGOING},
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ruma::{OwnedServerName, OwnedTransactionId, ServerName, api::federation::transactions::edu::Edu};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub use self::catch_up::NewestEvents;
use self::transaction::{Limits, Transaction, assemble};
use super::{
    client::{FederationClient, FederationError},
    destinations::Destinations,
};
use crate::edu::VolatileEdus;

/// How many servers that answer are sent to at the same time.
const SLOTS_HEALTHY: usize = 64;
/// How many servers that have been failing are tried at the same time.
const SLOTS_FAILING: usize = 16;
/// How many volatile EDUs wait for one server; older ones are dropped.
const VOLATILE_MAX: usize = 100;
/// How long after trouble with our own store a server's queue is looked at again.
const STORE_TROUBLE_PAUSE: Duration = Duration::from_secs(5);

/// What carries a transaction to its server: the federation client, or a test.
pub trait Transport: Send + Sync + 'static {
    fn send_transaction<'a>(
        &'a self,
        server: &'a ServerName,
        id: &'a OwnedTransactionId,
        body: Value,
    ) -> BoxFuture<'a, Result<(), FederationError>>;
}

impl Transport for FederationClient {
    fn send_transaction<'a>(
        &'a self,
        server: &'a ServerName,
        id: &'a OwnedTransactionId,
        body: Value,
    ) -> BoxFuture<'a, Result<(), FederationError>> {
        Box::pin(async move {
            let answer = FederationClient::send_transaction(self, server, id, body).await?;
            for (event_id, outcome) in answer.pdus {
                if let Some(reason) = outcome.get("error") {
                    tracing::debug!(destination = %server, event.id = event_id, %reason, "event was not accepted");
                }
            }
            Ok(())
        })
    }
}

/// What the dispatcher is told.
enum Signal {
    /// Something waits for this server.
    Wake(OwnedServerName),
    /// Not kept: sent now or never.
    Volatile(OwnedServerName, String),
}

/// One server's task, as seen from outside.
type Worker = Mutex<WorkerState>;

#[derive(Default)]
struct WorkerState {
    /// Something was queued since the worker last looked.
    dirty: bool,
    volatile: VecDeque<String>,
}

/// The handle of the sender. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    signals: mpsc::UnboundedSender<Signal>,
    destinations: Destinations,
    store: Store,
}

struct Inner {
    own_name: OwnedServerName,
    store: Store,
    clock: Arc<dyn Clock>,
    transport: Arc<dyn Transport>,
    destinations: Destinations,
    newest: Arc<dyn NewestEvents>,
    workers: Mutex<HashMap<OwnedServerName, Arc<Worker>>>,
    healthy_slots: Semaphore,
    failing_slots: Semaphore,
    stop: CancellationToken,
}

impl Sender {
    /// Starts sending: first what was left over, then whatever the log brings. Ends when `stop` is cancelled.
    pub fn start(
        own_name: OwnedServerName,
        store: Store,
        clock: Arc<dyn Clock>,
        transport: Arc<dyn Transport>,
        destinations: Destinations,
        newest: Arc<dyn NewestEvents>,
        stop: CancellationToken,
    ) -> Result<Self, StoreError> {
        let (signals, receiver) = mpsc::unbounded_channel();
        // Before the scan, so that nothing falls in between.
        let observer = signals.clone();
        store.observe(move |_, topics| {
            for topic in topics {
                if let Topic::Destination(server) = topic {
                    // Fails only after the end of the dispatcher: at shutdown.
                    let _ = observer.send(Signal::Wake(server.clone()));
                }
            }
        });
        for server in scan_waiting_servers(&store)? {
            let _ = signals.send(Signal::Wake(server));
        }
        let inner = Arc::new(Inner {
            own_name,
            store,
            clock,
            transport,
            destinations: destinations.clone(),
            newest,
            workers: Mutex::default(),
            healthy_slots: Semaphore::new(SLOTS_HEALTHY),
            failing_slots: Semaphore::new(SLOTS_FAILING),
            stop,
        });
        let store = inner.store.clone();
        tokio::spawn(inner.dispatch(receiver));
        Ok(Self { signals, destinations, store })
    }

    /// The server was heard from: if it was failing, what waits for it is tried now. Cheap where it was not.
    pub fn poke(&self, server: &ServerName) {
        self.destinations.record_contact(server);
    }

    /// Looks again at whatever waits for any server: after a change of the policy.
    pub fn look_again(&self) -> Result<(), StoreError> {
        for server in scan_waiting_servers(&self.store)? {
            let _ = self.signals.send(Signal::Wake(server));
        }
        Ok(())
    }

    /// Sends an EDU that is worth nothing later, such as typing: it is not kept, and not sent to servers that are failing.
    pub fn send_edu_volatile(&self, server: &ServerName, edu: String) {
        if !self.destinations.is_failing(server) {
            let _ = self.signals.send(Signal::Volatile(server.to_owned(), edu));
        }
    }
}

impl VolatileEdus for Sender {
    fn send_edu_volatile(&self, destination: &ServerName, edu: &Edu) {
        // Serialising an EDU cannot fail: its maps have string keys, and there are no floats.
        if let Ok(edu) = serde_json::to_string(edu) {
            Sender::send_edu_volatile(self, destination, edu);
        }
    }
}

/// The servers for which something waits, or that are to be caught up with.
fn scan_waiting_servers(store: &Store) -> Result<Vec<OwnedServerName>, StoreError> {
    let mut servers = Vec::new();
    let mut next = store.scan(&OUTGOING, &(), Direction::Forward).next().transpose()?;
    while let Some(((server, _), _)) = next {
        // On to the first row of the next server. Names are ASCII, so 0xff is beyond all of them.
        let after = (server.clone(), Position::MAX);
        next = store.scan_range(&OUTGOING, &after, &[u8::MAX], Direction::Forward).next().transpose()?;
        servers.push(server);
    }
    for row in store.scan(&CATCH_UP, &(), Direction::Forward) {
        servers.push(row?.0);
    }
    Ok(servers)
}

impl Inner {
    async fn dispatch(self: Arc<Self>, mut signals: mpsc::UnboundedReceiver<Signal>) {
        loop {
            let signal = tokio::select! {
                () = self.stop.cancelled() => return,
                signal = signals.recv() => signal,
            };
            match signal {
                None => return,
                Some(Signal::Wake(server)) => self.stir(server, |state| state.dirty = true),
                Some(Signal::Volatile(server, edu)) => self.stir(server, |state| {
                    if state.volatile.len() >= VOLATILE_MAX {
                        state.volatile.pop_front();
                    }
                    state.volatile.push_back(edu);
                    state.dirty = true;
                }),
            }
        }
    }

    /// Changes the state of a server's worker, starting one if none runs.
    fn stir(self: &Arc<Self>, server: OwnedServerName, change: impl FnOnce(&mut WorkerState)) {
        if server == self.own_name {
            return;
        }
        let mut workers = self.workers.lock();
        if let Some(worker) = workers.get(&server) {
            change(&mut worker.lock());
            return;
        }
        let worker = Arc::new(Worker::default());
        change(&mut worker.lock());
        workers.insert(server.clone(), worker.clone());
        let inner = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = inner.stop.cancelled() => {}
                () = inner.run_worker(&server, &worker) => {}
            }
        });
    }

    /// Sends until nothing waits any more.
    async fn run_worker(&self, server: &OwnedServerName, worker: &Worker) {
        let mut limits = Limits::FULL;
        // A transaction that failed is tried again exactly as it was, so that the other server can tell it is the same.
        let mut failed: Option<Transaction> = None;
        loop {
            self.wait_for_retry(server, worker).await;
            let next = match failed.take() {
                Some(transaction) => Ok(Some(transaction)),
                None => {
                    let volatile = {
                        let mut state = worker.lock();
                        state.dirty = false;
                        std::mem::take(&mut state.volatile)
                    };
                    assemble(&self.store, self.clock.as_ref(), &self.own_name, server, limits, volatile)
                }
            };
            let is_caught_up_later = match self.prepare_catch_up(server).await {
                Ok(is_caught_up_later) => is_caught_up_later,
                Err(error) => {
                    tracing::error!(destination = %server, %error, "server cannot be caught up with");
                    tokio::time::sleep(STORE_TROUBLE_PAUSE).await;
                    continue;
                }
            };
            let transaction = match next {
                Ok(Some(transaction)) => transaction,
                Ok(None) if is_caught_up_later => Transaction::empty(self.clock.now_ms(), &self.own_name),
                Ok(None) => {
                    if self.retire(server, worker) {
                        return;
                    }
                    continue;
                }
                Err(error) => {
                    tracing::error!(destination = %server, %error, "outgoing queue cannot be read");
                    tokio::time::sleep(STORE_TROUBLE_PAUSE).await;
                    continue;
                }
            };
            if transaction.items == 0 && transaction.rows.is_some() {
                self.delete_sent(server, &transaction).await;
                continue;
            }
            match self.send(server, &transaction).await {
                Outcome::Sent => {
                    limits = Limits::FULL;
                    self.delete_sent(server, &transaction).await;
                    if is_caught_up_later {
                        self.end_catch_up_or_pause(server).await;
                    }
                }
                // Even so it answers.
                Outcome::Refused if transaction.items == 0 => self.end_catch_up_or_pause(server).await,
                // The server minds this content: find out which piece by sending less at a time, and give up on that piece alone.
                Outcome::Refused if transaction.items > 1 => limits = limits.halved(transaction.items),
                Outcome::Refused => {
                    tracing::warn!(destination = %server, transaction.id = %transaction.id, "server refuses an item for good: dropped");
                    self.delete_sent(server, &transaction).await;
                }
                Outcome::Later => {
                    if let Err(error) = self.consider_catch_up(server).await {
                        tracing::error!(destination = %server, %error, "outgoing queue cannot be shortened");
                    }
                    // A transaction whose rows are gone is not tried again as it was.
                    failed = transaction.without_volatile().filter(|_| matches!(self.get_catch_up(server), Ok(None)));
                }
                Outcome::Forbidden => {
                    // It is caught up with on the day the operator allows the server again.
                    if let Err(error) = self.begin_catch_up(server).await {
                        tracing::error!(destination = %server, %error, "outgoing queue cannot be shortened");
                    }
                    self.workers.lock().remove(server);
                    return;
                }
            }
        }
    }

    /// Sleeps while the server is failing. Contact from it ends the sleep, and so does its answer to something else.
    async fn wait_for_retry(&self, server: &ServerName, worker: &Worker) {
        loop {
            let early_end = self.destinations.end_of_any_pause();
            let Some(retry_at_ms) = self.destinations.get_retry_at_ms(server) else { return };
            worker.lock().volatile.clear();
            let pause = Duration::from_millis(retry_at_ms.saturating_sub(self.clock.now_ms()));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = early_end => {}
            }
        }
    }

    /// Ends the worker unless something came in meanwhile. Under the lock that [`Inner::stir`] takes, so nothing is overlooked.
    fn retire(&self, server: &ServerName, worker: &Worker) -> bool {
        let mut workers = self.workers.lock();
        let idle = !worker.lock().dirty;
        if idle {
            workers.remove(server);
        }
        idle
    }

    async fn send(&self, server: &ServerName, transaction: &Transaction) -> Outcome {
        let slots = if self.destinations.is_failing(server) { &self.failing_slots } else { &self.healthy_slots };
        let _slot = slots.acquire().await;
        match self.transport.send_transaction(server, &transaction.id, transaction.body.clone()).await {
            Ok(()) => {
                self.destinations.record_success(server);
                tracing::debug!(destination = %server, transaction.id = %transaction.id, items = transaction.items, "sent");
                Outcome::Sent
            }
            Err(FederationError::Policy(reason)) => {
                tracing::debug!(destination = %server, %reason, "not sent");
                Outcome::Forbidden
            }
            Err(FederationError::OwnServer) => Outcome::Forbidden,
            Err(FederationError::Status { status: 400 | 413, error, .. }) => {
                tracing::debug!(destination = %server, transaction.id = %transaction.id, error, "refused");
                Outcome::Refused
            }
            Err(error) => {
                let retry_at_ms = self.destinations.record_failure(server);
                tracing::debug!(destination = %server, transaction.id = %transaction.id, %error, retry_at_ms, "not sent");
                Outcome::Later
            }
        }
    }

    /// Deletes the rows of a transaction that needs no sending any more.
    async fn delete_sent(&self, server: &OwnedServerName, transaction: &Transaction) {
        let Some((first, last)) = transaction.rows else { return };
        loop {
            let mut batch = Batch::new();
            batch.delete_range(&OUTGOING, &(server.clone(), first), &(server.clone(), last.next()));
            match self.store.commit(batch).await {
                Ok(_) => return,
                Err(error) => {
                    // Going on would send the same rows again and again.
                    tracing::error!(destination = %server, %error, "sent rows cannot be deleted");
                    tokio::time::sleep(STORE_TROUBLE_PAUSE).await;
                }
            }
        }
    }
}

enum Outcome {
    Sent,
    /// The server answered that the content is wrong.
    Refused,
    /// No answer, or one that may be different later.
    Later,
    /// The policy does not allow this server.
    Forbidden,
}

#[cfg(test)]
mod tests;
