//! Delayed events (MSC4140): events that a user hands in now, to be sent when a delay is over unless they are cancelled or the delay is
//! restarted before.
//!
//! Everything is durable before it is answered, so nothing is lost or sent twice by a restart: what is due is sent under its delay id as
//! transaction. [`DelayedEvents::run`] sends, [`DelayedEvents::follow`] cancels what newer state of others has overtaken. How an event is
//! made and whether its room takes it is the room's business, at the time it is sent.

use std::{sync::Arc, time::Duration};

use chappe_protocol::clock::Clock;
use chappe_rooms::{EventDraft, RoomError, Rooms, send::canonical_content, send::transaction};
use chappe_store::{
    Batch, CommitError, Direction, Domain, Stamped, Store, StoreError,
    tables::delayed_events::{
        DELAYED_EVENT_TIMES, DELAYED_EVENT_TRANSACTIONS, DELAYED_EVENTS, ROOM_DELAYED_EVENTS, USER_DELAYED_EVENTS,
    },
};
use ruma::{OwnedRoomId, OwnedTransactionId, RoomId, UserId};
use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::{
    accounts::{Session, random_text},
    guarded::commit_guarded,
};

mod run;
#[cfg(test)]
mod tests;

pub use self::run::Overtaken;
pub use chappe_store::tables::delayed_events::{DelayedEventRecord, DelayedOutcome};

/// How long it can be asked how a delayed event ended, in milliseconds.
const OUTCOME_KEPT_MS: u64 = 86_400_000;

/// How many ended events of a user are kept at most: the oldest go first.
const OUTCOMES_PER_USER_MAX: usize = 1_000;

/// So many delayed events can be worked on at a time.
const LOCKS: usize = 64;

const DELAY_ID_LENGTH: usize = 24;

/// What the operator decides about delayed events.
#[derive(Clone, Debug)]
pub struct DelayedEventsConfig {
    /// The longest delay, in milliseconds. 0: events cannot be delayed.
    pub delay_ms_max: u64,
    /// How many events a user may have scheduled at a time.
    pub per_user_max: usize,
}

impl Default for DelayedEventsConfig {
    fn default() -> Self {
        Self { delay_ms_max: 86_400_000, per_user_max: 100 }
    }
}

/// An event that was not scheduled.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    #[error("events cannot be delayed on this server")]
    Disabled,
    #[error("events can be delayed by {delay_ms_max} milliseconds at most")]
    TooLong { delay_ms_max: u64 },
    #[error("you have too many delayed events")]
    TooMany,
    /// Membership is changed with the help of other servers, and cannot wait: but for leaving and banning.
    #[error("a delayed member event can only be a leave or a ban")]
    Membership,
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// A delayed event that was not changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    #[error("there is no such delayed event")]
    NotFound,
    #[error("the delayed event has already been sent or cancelled")]
    Ended,
    /// It was to be sent now, and the room would not have it.
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// What may be done with a scheduled event by whoever knows its delay id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Cancel,
    /// The delay begins anew.
    Restart,
    /// Sent at once.
    Send,
}

/// The delayed events of this server's users.
pub struct DelayedEvents {
    rooms: Rooms,
    store: Store,
    clock: Arc<dyn Clock>,
    config: DelayedEventsConfig,
    /// Told when something may be due sooner than [`DelayedEvents::run`] thinks.
    sooner: Notify,
    /// Held while an event is changed or sent, by a hash of its delay id: what has been cancelled is not on its way.
    locks: [Mutex<()>; LOCKS],
}

impl DelayedEvents {
    pub fn new(rooms: Rooms, clock: Arc<dyn Clock>, config: DelayedEventsConfig) -> Self {
        let store = rooms.store().clone();
        Self { rooms, store, clock, config, sooner: Notify::new(), locks: std::array::from_fn(|_| Mutex::new(())) }
    }

    pub fn is_enabled(&self) -> bool {
        self.config.delay_ms_max > 0
    }

    /// Schedules an event, and answers its delay id. A transaction that was answered before gets the same one.
    ///
    /// `draft.transaction` names the client's request; events without one are scheduled anew each time.
    pub async fn schedule(
        &self,
        session: &Session,
        room_id: &RoomId,
        draft: EventDraft,
        delay: Duration,
    ) -> Result<String, ScheduleError> {
        let delay_ms_max = self.config.delay_ms_max;
        if delay_ms_max == 0 {
            return Err(ScheduleError::Disabled);
        }
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        if delay_ms > delay_ms_max {
            return Err(ScheduleError::TooLong { delay_ms_max });
        }
        let user_id = &session.user_id;
        let transaction_id = draft.transaction.as_ref().map(|transaction| transaction.id.to_string());
        if let Some(delay_id) = self.get_scheduled(session, room_id, transaction_id.as_deref())? {
            self.store.barrier().await?;
            return Ok(delay_id);
        }
        let room = self.rooms.require_room(room_id)?;
        if !self.rooms.is_joined(room.nid, user_id)? {
            return Err(RoomError::Forbidden("You are not in this room".to_owned()).into());
        }
        let membership = draft.content.get("membership").and_then(|membership| membership.as_str());
        if draft.state_key.is_some()
            && draft.kind.to_string() == "m.room.member"
            && !matches!(membership, Some("leave" | "ban"))
        {
            return Err(ScheduleError::Membership);
        }
        let content = serde_json::to_string(&draft.content).map_err(|error| RoomError::BadJson(error.to_string()))?;
        if content.len() > chappe_protocol::format::MAX_EVENT_BYTES {
            return Err(RoomError::TooLarge("The event is too large".to_owned()).into());
        }
        let record = DelayedEventRecord {
            user_id: user_id.clone(),
            device_id: session.device_id.clone(),
            room_id: room_id.to_owned(),
            event_type: draft.kind.to_string(),
            state_key: draft.state_key,
            content,
            redacts: draft.redacts,
            transaction_id,
            delay_ms,
            running_since_ms: self.clock.now_ms(),
            outcome: None,
        };
        let delay_id = commit_guarded(&self.store, Domain::Account(user_id.clone()), |batch| {
            if let Some(delay_id) = self.get_scheduled(session, room_id, record.transaction_id.as_deref())? {
                return Ok(delay_id);
            }
            if self.scan_ids(user_id, true)?.len() >= self.config.per_user_max {
                return Err(ScheduleError::TooMany);
            }
            let delay_id =
                random_text(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", DELAY_ID_LENGTH);
            queue_scheduled(batch, &delay_id, &record);
            Ok(delay_id)
        })
        .await?;
        self.sooner.notify_one();
        Ok(delay_id)
    }

    fn get_scheduled(
        &self,
        session: &Session,
        room_id: &RoomId,
        transaction_id: Option<&str>,
    ) -> Result<Option<String>, StoreError> {
        let Some(transaction_id) = transaction_id else { return Ok(None) };
        let key = (session.user_id.clone(), session.device_id.clone(), room_id.to_owned(), transaction_id.to_owned());
        self.store.get(&DELAYED_EVENT_TRANSACTIONS, &key)
    }

    /// What a user has scheduled, the next to be sent first.
    pub fn scan_scheduled(&self, user_id: &UserId) -> Result<Vec<(String, DelayedEventRecord)>, StoreError> {
        let mut events = Vec::new();
        for delay_id in self.scan_ids(user_id, true)? {
            if let Some(stored) = self.store.get(&DELAYED_EVENTS, &delay_id)? {
                events.push((delay_id, stored.value));
            }
        }
        events.sort_by_key(|(_, record)| due_at(record));
        Ok(events)
    }

    /// One of a user's own delayed events, scheduled or ended.
    pub fn get_delayed_event(
        &self,
        user_id: &UserId,
        delay_id: &str,
    ) -> Result<Option<DelayedEventRecord>, StoreError> {
        let stored = self.store.get(&DELAYED_EVENTS, &delay_id.to_owned())?;
        Ok(stored.map(|stored| stored.value).filter(|record| record.user_id == user_id))
    }

    /// Changes a scheduled event for whoever knows its delay id. What has been done already is not done again, and no error.
    pub async fn update(&self, delay_id: &str, action: Action) -> Result<(), UpdateError> {
        let _working = self.lock(delay_id).await;
        let Stamped { value: record, .. } =
            self.store.get(&DELAYED_EVENTS, &delay_id.to_owned())?.ok_or(UpdateError::NotFound)?;
        match (&record.outcome, action) {
            (None, Action::Cancel) => self.end(delay_id, DelayedOutcome::Cancelled).await?,
            (None, Action::Restart) => self.restart(delay_id).await?,
            (None, Action::Send) => self.send(delay_id, &record).await?,
            (Some((DelayedOutcome::Cancelled, _)), Action::Cancel)
            | (Some((DelayedOutcome::Sent { .. }, _)), Action::Send) => self.store.barrier().await?,
            (Some(_), _) => return Err(UpdateError::Ended),
        }
        Ok(())
    }

    async fn restart(&self, delay_id: &str) -> Result<(), UpdateError> {
        let now_ms = self.clock.now_ms();
        self.change(delay_id, |batch, stored| {
            queue_moved(
                batch,
                delay_id,
                &stored.value,
                due_at(&DelayedEventRecord { running_since_ms: now_ms, ..stored.value.clone() }),
            );
            stored.value.running_since_ms = now_ms;
        })
        .await?;
        self.sooner.notify_one();
        Ok(())
    }

    /// Sends an event whose lock is held, and notes what became of it.
    async fn send(&self, delay_id: &str, record: &DelayedEventRecord) -> Result<(), UpdateError> {
        match self.rooms.send(&record.user_id, &record.room_id, draft(delay_id, record)?).await {
            Ok(sent) => Ok(self.end(delay_id, DelayedOutcome::Sent { event_id: sent.event_id }).await?),
            // Nothing is decided yet: the disk is full, or the like.
            Err(error @ (RoomError::Store(_) | RoomError::Commit(_))) => Err(error.into()),
            Err(error) => {
                let errcode = if matches!(error, RoomError::NotFound(_)) { "M_NOT_FOUND" } else { "M_FORBIDDEN" };
                let outcome = DelayedOutcome::Refused { errcode: errcode.to_owned(), message: error.to_string() };
                self.end(delay_id, outcome).await?;
                Err(error.into())
            }
        }
    }

    /// Notes how an event ended. It is forgotten some time later.
    async fn end(&self, delay_id: &str, outcome: DelayedOutcome) -> Result<(), CommitError> {
        let now_ms = self.clock.now_ms();
        let changed = self.change(delay_id, |batch, stored| {
            queue_moved(batch, delay_id, &stored.value, now_ms.saturating_add(OUTCOME_KEPT_MS));
            let record = &mut stored.value;
            batch.put(&USER_DELAYED_EVENTS, &(record.user_id.clone(), delay_id.to_owned()), &0);
            batch.delete(&ROOM_DELAYED_EVENTS, &(record.room_id.clone(), delay_id.to_owned()));
            record.outcome = Some((outcome.clone(), now_ms));
        });
        match changed.await {
            Ok(()) => Ok(()),
            Err(ChangeError::Write(error)) => Err(error),
            Err(ChangeError::Read(error)) => Err(CommitError::Invalid(error.to_string())),
        }
    }

    /// Rewrites a scheduled event under its owner's domain; one that has ended meanwhile stays as it is.
    async fn change(
        &self,
        delay_id: &str,
        apply: impl Fn(&mut Batch, &mut Stamped<DelayedEventRecord>),
    ) -> Result<(), ChangeError> {
        let Some(stored) = self.store.get(&DELAYED_EVENTS, &delay_id.to_owned())? else { return Ok(()) };
        commit_guarded(&self.store, Domain::Account(stored.value.user_id), |batch| {
            let stored = self.store.get(&DELAYED_EVENTS, &delay_id.to_owned())?;
            if let Some(mut stored) = stored.filter(|stored| stored.value.outcome.is_none()) {
                apply(batch, &mut stored);
                batch.put(&DELAYED_EVENTS, &delay_id.to_owned(), &stored);
            }
            Ok(())
        })
        .await
    }

    fn scan_ids(&self, user_id: &UserId, scheduled: bool) -> Result<Vec<String>, StoreError> {
        let rows = self.store.scan(&USER_DELAYED_EVENTS, &(user_id.to_owned(),), Direction::Forward);
        let wanted = u64::from(scheduled);
        rows.filter_map(|row| match row {
            Ok(((_, delay_id), state)) => (state == wanted).then_some(Ok(delay_id)),
            Err(error) => Some(Err(error)),
        })
        .collect()
    }

    async fn lock(&self, delay_id: &str) -> MutexGuard<'_, ()> {
        let hash = delay_id.bytes().fold(0usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
        // The remainder is always a lock's place.
        let [first, ..] = &self.locks;
        self.locks.get(hash % LOCKS).unwrap_or(first).lock().await
    }
}

#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

impl From<ChangeError> for UpdateError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Read(error) => error.into(),
            ChangeError::Write(error) => error.into(),
        }
    }
}

/// When something is to happen with an event next, in milliseconds since the Unix epoch: it is sent, or forgotten.
fn due_at(record: &DelayedEventRecord) -> u64 {
    match record.outcome {
        None => record.running_since_ms.saturating_add(record.delay_ms),
        Some((_, ended_at_ms)) => ended_at_ms.saturating_add(OUTCOME_KEPT_MS),
    }
}

fn queue_scheduled(batch: &mut Batch, delay_id: &str, record: &DelayedEventRecord) {
    let id = delay_id.to_owned();
    let position = batch.next_position();
    batch.put(&DELAYED_EVENTS, &id, &Stamped { position, value: record.clone() });
    batch.put(&DELAYED_EVENT_TIMES, &(due_at(record), id.clone()), &());
    batch.put(&USER_DELAYED_EVENTS, &(record.user_id.clone(), id.clone()), &1);
    if record.state_key.is_some() {
        batch.put(&ROOM_DELAYED_EVENTS, &(record.room_id.clone(), id.clone()), &());
    }
    if let Some(key) = transaction_key(record) {
        batch.put(&DELAYED_EVENT_TRANSACTIONS, &key, &id);
    }
}

/// Another time for the next thing to happen.
fn queue_moved(batch: &mut Batch, delay_id: &str, before: &DelayedEventRecord, due_at_ms: u64) {
    batch.delete(&DELAYED_EVENT_TIMES, &(due_at(before), delay_id.to_owned()));
    batch.put(&DELAYED_EVENT_TIMES, &(due_at_ms, delay_id.to_owned()), &());
}

fn queue_forgotten(batch: &mut Batch, delay_id: &str, record: &DelayedEventRecord) {
    let id = delay_id.to_owned();
    batch.delete(&DELAYED_EVENTS, &id);
    batch.delete(&DELAYED_EVENT_TIMES, &(due_at(record), id.clone()));
    batch.delete(&USER_DELAYED_EVENTS, &(record.user_id.clone(), id.clone()));
    batch.delete(&ROOM_DELAYED_EVENTS, &(record.room_id.clone(), id));
    if let Some(key) = transaction_key(record) {
        batch.delete(&DELAYED_EVENT_TRANSACTIONS, &key);
    }
}

type TransactionKey = (ruma::OwnedUserId, ruma::OwnedDeviceId, OwnedRoomId, String);

fn transaction_key(record: &DelayedEventRecord) -> Option<TransactionKey> {
    let id = record.transaction_id.clone()?;
    Some((record.user_id.clone(), record.device_id.clone(), record.room_id.clone(), id))
}

/// The event as its room gets it: under its delay id as transaction, so that it is sent once whatever happens.
fn draft(delay_id: &str, record: &DelayedEventRecord) -> Result<EventDraft, RoomError> {
    let content = canonical_content(&record.content)?;
    let mut draft = match &record.state_key {
        Some(state_key) => EventDraft::state(record.event_type.as_str(), state_key, content),
        None => EventDraft::message(record.event_type.as_str().into(), content),
    };
    draft.redacts.clone_from(&record.redacts);
    draft.transaction = Some(transaction(&record.device_id, &OwnedTransactionId::from(delay_id)));
    Ok(draft)
}
