//! Sends what waits in the push queue to the push gateways, one task per pusher that has something waiting.
//!
//! Rows are written by [`super::follower`] and deleted here once the gateway has them, or once the user has read what they are
//! about; so nothing is lost in a crash, and after one sending goes on. A gateway that fails is tried again after pauses that grow
//! to an hour and survive a restart; what has waited for a day is dropped. What waits for pushers that write emails goes out by
//! [`email`].

mod email;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chappe_protocol::clock::Clock;
use chappe_rooms::{Event, Room, RoomError, Rooms};
use chappe_store::{
    Batch, CommitError, Direction, Position, Store, StoreError,
    tables::push::{PUSH_QUEUE, PUSHER_STATES, PusherRecord, PusherState, QueuedPush},
};
use parking_lot::Mutex;
use ruma::{UserId, push::Action};
use serde_json::Value;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{
    gateway::{Gateway, badge_body, event_body},
    pushers::{PusherKey, Pushers, SetPusherError, gateway_url},
    unread::Unread,
};
use crate::{emails::Emails, receipts::Receipts};

/// How many gateways are asked at the same time.
const SLOTS: usize = 64;

/// The pause after the first failure, and the longest one, in milliseconds.
const PAUSE_FIRST_MS: u64 = 1_000;
const PAUSE_MAX_MS: u64 = 3_600_000;

/// How long a notification is worth sending, in milliseconds.
const AGE_MAX_MS: u64 = 24 * 3_600_000;

/// How many notifications wait for a pusher that fails: of more, the oldest are dropped.
const QUEUE_MAX: usize = 1_000;

/// How long after trouble with our own store a queue is looked at again.
const STORE_TROUBLE_PAUSE: Duration = Duration::from_secs(5);

/// Why sending could not go on: never the gateway's fault.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Pusher(#[from] SetPusherError),
    /// The counting was broken off.
    #[error("what is unread could not be counted: {0}")]
    Aborted(String),
}

/// An event that waits and is still news.
struct Fresh {
    /// `None` where the user is invited to a room that this server is not in.
    room: Option<Room>,
    event: Arc<Event>,
}

/// What became of one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    /// Something was done; there may be more.
    Step,
    /// Not before this time, in milliseconds since the Unix epoch.
    RetryAt(u64),
    /// Nothing is left to do.
    Idle,
}

/// One pusher's task, as seen from outside.
#[derive(Default)]
struct Worker {
    /// Something changed since the worker last looked.
    dirty: AtomicBool,
    /// Ends a pause.
    notify: Notify,
}

struct Inner {
    store: Store,
    rooms: Rooms,
    pushers: Arc<Pushers>,
    unread: Arc<Unread>,
    gateway: Arc<dyn Gateway>,
    emails: Arc<Emails>,
    clock: Arc<dyn Clock>,
    workers: Mutex<HashMap<PusherKey, Arc<Worker>>>,
    slots: Semaphore,
    stop: CancellationToken,
}

/// The sender of notifications. Cheap to clone.
#[derive(Clone)]
pub struct Deliveries {
    inner: Arc<Inner>,
}

impl Deliveries {
    /// Sending ends when `stop` is cancelled.
    pub fn new(
        rooms: Rooms,
        pushers: Arc<Pushers>,
        unread: Arc<Unread>,
        gateway: Arc<dyn Gateway>,
        emails: Arc<Emails>,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> Self {
        let (workers, slots) = (Mutex::default(), Semaphore::new(SLOTS));
        let store = rooms.store().clone();
        Self { inner: Arc::new(Inner { store, rooms, pushers, unread, gateway, emails, clock, workers, slots, stop }) }
    }

    /// Goes on with what was left over.
    pub fn resume(&self) -> Result<(), StoreError> {
        for key in self.inner.pushers.scan_waiting()? {
            self.wake_pusher(key);
        }
        Ok(())
    }

    /// Whether anything is sent to a pusher of this kind.
    pub(super) fn serves(&self, record: &PusherRecord) -> bool {
        match record.kind.as_str() {
            "http" => true,
            "email" => self.inner.emails.is_enabled(),
            _ => false,
        }
    }

    /// Looks at the queues of a user's pushers, and whether they know how much is unread.
    pub fn wake(&self, user_id: &UserId) -> Result<(), StoreError> {
        if !self.inner.pushers.is_owner(user_id) {
            return Ok(());
        }
        for (key, record) in self.inner.pushers.scan_pushers(user_id)? {
            if self.serves(&record) {
                self.wake_pusher(key);
            }
        }
        Ok(())
    }

    /// Lets the pushers know when less is unread.
    pub fn wake_on_read(&self, receipts: &Receipts) {
        let deliveries = self.clone();
        receipts.on_read(move |user_id| {
            if let Err(error) = deliveries.wake(user_id) {
                tracing::warn!(%error, "pushers are not told what was read");
            }
        });
    }

    fn wake_pusher(&self, key: PusherKey) {
        let mut workers = self.inner.workers.lock();
        if let Some(worker) = workers.get(&key) {
            worker.dirty.store(true, Ordering::Release);
            worker.notify.notify_one();
            return;
        }
        let worker = Arc::new(Worker::default());
        workers.insert(key.clone(), worker.clone());
        let inner = self.inner.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = inner.work(&key, &worker) => {}
                () = inner.stop.cancelled() => {}
            }
        });
    }
}

impl Inner {
    /// Works a pusher's queue off, and ends when there is nothing more to do.
    async fn work(&self, key: &PusherKey, worker: &Worker) {
        loop {
            worker.dirty.store(false, Ordering::Release);
            let pause = match self.step(key).await {
                Ok(Progress::Step) => continue,
                Ok(Progress::RetryAt(at_ms)) => Duration::from_millis(at_ms.saturating_sub(self.clock.now_ms())),
                Ok(Progress::Idle) => {
                    let mut workers = self.workers.lock();
                    if worker.dirty.load(Ordering::Acquire) {
                        continue;
                    }
                    workers.remove(key);
                    return;
                }
                Err(error) => {
                    tracing::warn!(user.id = %key.user_id, %error, "notifications wait for the store");
                    STORE_TROUBLE_PAUSE
                }
            };
            // Woken, it looks anew: the pusher may have been set again, or deleted.
            let _ = tokio::time::timeout(pause, worker.notify.notified()).await;
        }
    }

    /// Does the next thing there is to do for a pusher.
    async fn step(&self, key: &PusherKey) -> Result<Progress, DeliverError> {
        let Some(record) = self.pushers.get_pusher(key)? else {
            // What a follower queued while the pusher was deleted.
            let mut batch = Batch::new();
            batch.delete_prefix(&PUSH_QUEUE, &key.row());
            self.store.commit(batch).await?;
            return Ok(Progress::Idle);
        };
        if record.kind == "email" {
            return self.step_email(key).await;
        }
        let url = serde_json::from_str::<Value>(&record.data).ok();
        let Some(url) = url.and_then(|data| gateway_url(data.get("url")?.as_str()?)) else { return Ok(Progress::Idle) };
        let state = self.store.get(&PUSHER_STATES, &key.row())?.unwrap_or_default();
        if state.retry_at_ms > self.clock.now_ms() {
            return Ok(Progress::RetryAt(state.retry_at_ms));
        }
        let next = self.store.scan(&PUSH_QUEUE, &key.row(), Direction::Forward).next().transpose()?;
        let (place, body, badge) = match next {
            Some(((_, _, _, position), push)) => {
                let badge = self.get_badge(key).await?;
                let Some(body) = self.get_body(key, &record, &push, badge)? else {
                    let mut batch = Batch::new();
                    self.queue_done(&mut batch, key, position);
                    self.store.commit(batch).await?;
                    return Ok(Progress::Step);
                };
                (Some(position), body, badge)
            }
            None => {
                let badge = self.get_badge(key).await?;
                if badge == state.badge {
                    return Ok(Progress::Idle);
                }
                (None, badge_body(key, &record, badge), badge)
            }
        };
        let answer = {
            let Ok(_slot) = self.slots.acquire().await else { return Ok(Progress::Idle) };
            self.gateway.notify(url, body).await
        };
        match answer {
            Ok(rejected) => {
                self.note_success(key, place, badge).await?;
                if rejected.contains(&key.pushkey) {
                    tracing::info!(user.id = %key.user_id, "a push gateway rejected a pushkey: the pusher is deleted");
                    self.pushers.delete(key).await?;
                }
                Ok(Progress::Step)
            }
            Err(error) => {
                tracing::debug!(user.id = %key.user_id, %error, "a push gateway was not told");
                self.note_failure(key, state).await.map(Progress::RetryAt)
            }
        }
    }

    /// How much is unread: worked out off the threads that serve everybody else, since it looks at all rooms.
    async fn get_badge(&self, key: &PusherKey) -> Result<u64, DeliverError> {
        let (unread, user_id) = (self.unread.clone(), key.user_id.clone());
        let counting = tokio::task::spawn_blocking(move || unread.get_badge(&user_id));
        Ok(counting.await.map_err(|error| DeliverError::Aborted(error.to_string()))??)
    }

    /// What a pusher is told of a queued event; `None` if it is not worth it any more.
    fn get_body(
        &self,
        key: &PusherKey,
        record: &PusherRecord,
        push: &QueuedPush,
        badge: u64,
    ) -> Result<Option<Value>, DeliverError> {
        let Some(Fresh { room, event }) = self.get_news(key, push)? else { return Ok(None) };
        let actions: Vec<Action> = serde_json::from_str(&push.actions).unwrap_or_default();
        Ok(Some(event_body(&self.rooms, room.as_ref(), &event, &actions, (key, record), badge)?))
    }

    /// The event that waits in a queue; `None` if it is too old or was read.
    fn get_news(&self, key: &PusherKey, push: &QueuedPush) -> Result<Option<Fresh>, DeliverError> {
        if push.queued_at_ms.saturating_add(AGE_MAX_MS) < self.clock.now_ms() {
            return Ok(None);
        }
        let Some(event) = self.rooms.get_event_by_nid(push.nid)? else { return Ok(None) };
        let room = self.rooms.get_room_by_nid(push.room)?;
        let is_news = self.is_news(&key.user_id, room.as_ref(), &event)?;
        Ok(is_news.then_some(Fresh { room, event }))
    }

    /// Whether an event is unread, or an invite that stands.
    fn is_news(&self, user_id: &UserId, room: Option<&Room>, event: &Event) -> Result<bool, DeliverError> {
        let member = self.rooms.get_user_room(user_id, event.record.room)?;
        Ok(match (member, room) {
            (Some(member), _) if member.value.membership == "invite" => member.value.event == Some(event.nid),
            (Some(member), Some(room)) if member.value.membership == "join" => {
                self.unread.is_unread(user_id, room, event.nid)?
            }
            _ => false,
        })
    }

    fn queue_done(&self, batch: &mut Batch, key: &PusherKey, position: Position) {
        let (user_id, app_id, pushkey) = key.row();
        batch.delete(&PUSH_QUEUE, &(user_id, app_id, pushkey, position));
    }

    async fn note_success(&self, key: &PusherKey, place: Option<Position>, badge: u64) -> Result<(), DeliverError> {
        let mut batch = Batch::new();
        if let Some(position) = place {
            self.queue_done(&mut batch, key, position);
        }
        batch.put(&PUSHER_STATES, &key.row(), &PusherState { badge, ..PusherState::default() });
        self.store.commit(batch).await?;
        Ok(())
    }

    /// Answers when to try again, in milliseconds since the Unix epoch.
    async fn note_failure(&self, key: &PusherKey, state: PusherState) -> Result<u64, DeliverError> {
        let pause_ms = PAUSE_FIRST_MS.saturating_mul(1 << state.failures.min(32)).min(PAUSE_MAX_MS);
        // Up to a quarter more, so that the pushers of a gateway that comes back do not all call at once.
        let jitter_ms = rand::random::<u64>() % (pause_ms / 4 + 1);
        let retry_at_ms = self.clock.now_ms().saturating_add(pause_ms + jitter_ms);
        let mut batch = Batch::new();
        let failed = PusherState { failures: state.failures.saturating_add(1), retry_at_ms, badge: state.badge };
        batch.put(&PUSHER_STATES, &key.row(), &failed);
        let waiting = self.store.scan(&PUSH_QUEUE, &key.row(), Direction::Reverse).skip(QUEUE_MAX);
        for row in waiting {
            let ((_, _, _, position), _) = row?;
            self.queue_done(&mut batch, key, position);
        }
        self.store.commit(batch).await?;
        Ok(retry_at_ms)
    }
}

#[cfg(test)]
mod tests;
