//! Doing what is due: sending, forgetting, and cancelling what others' newer state has overtaken.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chappe_rooms::Event;
use chappe_store::{
    Batch, Direction, Domain, Order, Position, Stamped, StoreError,
    tables::delayed_events::{
        DELAYED_EVENT_TIMES, DELAYED_EVENTS, DelayedEventRecord, DelayedOutcome, ROOM_DELAYED_EVENTS,
    },
};
use futures_util::{StreamExt, stream};
use ruma::{OwnedRoomId, events::StateEventType};

use super::{ChangeError, DelayedEvents, OUTCOMES_PER_USER_MAX, UpdateError, due_at, queue_forgotten};
use crate::{event_follower::Work, guarded::commit_guarded};

/// How many due events are taken up at a time.
const DUE_MAX: usize = 200;
/// In how many rooms things are sent at a time.
const ROOMS_AT_ONCE: usize = 16;
/// How long after a failure of the server itself it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl DelayedEvents {
    /// Sends what is due, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            let sooner = self.sooner.notified();
            let pause = match self.work().await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::error!(%error, "delayed events could not be read or changed");
                    Some(RETRY_AFTER)
                }
            };
            match pause {
                // Whichever comes first, the next round looks again.
                Some(pause) => drop(tokio::time::timeout(pause, sooner).await),
                None => sooner.await,
            }
        }
    }

    /// Does what is due, and answers how long there is nothing more to do; `None`: nothing is scheduled.
    pub(super) async fn work(&self) -> Result<Option<Duration>, UpdateError> {
        let now_ms = self.clock.now_ms();
        let mut due = Vec::new();
        let mut next_ms = None;
        for row in self.store.scan(&DELAYED_EVENT_TIMES, &(), Direction::Forward) {
            let ((at_ms, delay_id), ()) = row?;
            if at_ms > now_ms || due.len() == DUE_MAX {
                next_ms = Some(at_ms);
                break;
            }
            due.push(delay_id);
        }
        if due.is_empty() {
            return Ok(next_ms.map(|next_ms| Duration::from_millis(next_ms.saturating_sub(now_ms))));
        }
        // In each room one after the other, in the order in which they were to be sent.
        let mut by_room: HashMap<OwnedRoomId, Vec<String>> = HashMap::new();
        for delay_id in due {
            if let Some(stored) = self.store.get(&DELAYED_EVENTS, &delay_id)? {
                by_room.entry(stored.value.room_id).or_default().push(delay_id);
            }
        }
        let rooms = stream::iter(by_room.into_values()).map(|due| async {
            for delay_id in due {
                self.work_on(&delay_id, now_ms).await?;
            }
            Ok::<_, UpdateError>(())
        });
        let results: Vec<_> = rooms.buffer_unordered(ROOMS_AT_ONCE).collect().await;
        results.into_iter().collect::<Result<(), _>>()?;
        Ok(Some(Duration::ZERO))
    }

    async fn work_on(&self, delay_id: &str, now_ms: u64) -> Result<(), UpdateError> {
        let _working = self.lock(delay_id).await;
        let Some(stored) = self.store.get(&DELAYED_EVENTS, &delay_id.to_owned())? else { return Ok(()) };
        // It may have been restarted meanwhile.
        if due_at(&stored.value) > now_ms {
            return Ok(());
        }
        if stored.value.outcome.is_some() {
            return Ok(self.forget(delay_id, &stored.value).await?);
        }
        if self.is_overtaken(&stored)? {
            return Ok(self.end(delay_id, DelayedOutcome::Cancelled).await?);
        }
        match self.send(delay_id, &stored.value).await {
            Ok(()) => self.trim(&stored.value).await?,
            Err(UpdateError::Room(error)) => {
                if matches!(error, chappe_rooms::RoomError::Store(_) | chappe_rooms::RoomError::Commit(_)) {
                    return Err(error.into());
                }
                tracing::debug!(%error, room.id = %stored.value.room_id, "a delayed event was refused by its room");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn forget(&self, delay_id: &str, record: &DelayedEventRecord) -> Result<(), ChangeError> {
        commit_guarded(&self.store, Domain::Account(record.user_id.clone()), |batch| {
            queue_forgotten(batch, delay_id, record);
            Ok(())
        })
        .await
    }

    /// Forgets the oldest of a user's ended events where there are too many.
    async fn trim(&self, record: &DelayedEventRecord) -> Result<(), UpdateError> {
        let ended = self.scan_ids(&record.user_id, false)?;
        if ended.len() <= OUTCOMES_PER_USER_MAX {
            return Ok(());
        }
        let mut records = Vec::new();
        for delay_id in ended {
            if let Some(stored) = self.store.get(&DELAYED_EVENTS, &delay_id)? {
                records.push((delay_id, stored.value));
            }
        }
        records.sort_by_key(|(_, record)| due_at(record));
        let surplus = records.len().saturating_sub(OUTCOMES_PER_USER_MAX / 2);
        for (delay_id, record) in records.iter().take(surplus) {
            self.forget(delay_id, record).await?;
        }
        Ok(())
    }

    /// Whether the state that an event would change was changed by somebody else since the event was scheduled.
    fn is_overtaken(&self, stored: &Stamped<DelayedEventRecord>) -> Result<bool, StoreError> {
        let record = &stored.value;
        let Some(state_key) = &record.state_key else { return Ok(false) };
        let Some(room) = self.rooms.get_room_nid(&record.room_id)? else { return Ok(false) };
        let event_type = StateEventType::from(record.event_type.as_str());
        let Some(current) = self.rooms.get_state_event(room, &event_type, state_key)? else { return Ok(false) };
        if current.pdu.sender == record.user_id {
            return Ok(false);
        }
        Ok(match self.rooms.get_event_order(current.nid)? {
            Some(Order::Live(position)) => position > stored.position,
            _ => false,
        })
    }

    async fn cancel_overtaken(&self, position: Position, event: &Event) -> Result<(), UpdateError> {
        let Some((event_type, state_key)) = event.pdu.state_tuple() else { return Ok(()) };
        let room = event.pdu.room_id.clone();
        let ids: Vec<String> = self
            .store
            .scan(&ROOM_DELAYED_EVENTS, &(room,), Direction::Forward)
            .map(|row| row.map(|((_, delay_id), ())| delay_id))
            .collect::<Result<_, _>>()?;
        for delay_id in ids {
            let _working = self.lock(&delay_id).await;
            let Some(stored) = self.store.get(&DELAYED_EVENTS, &delay_id)? else { continue };
            let record = &stored.value;
            let is_overtaken = record.outcome.is_none()
                && stored.position < position
                && record.user_id != event.pdu.sender
                && record.event_type == event_type.to_string()
                && record.state_key.as_deref() == Some(state_key);
            if is_overtaken {
                self.end(&delay_id, DelayedOutcome::Cancelled).await?;
            }
        }
        Ok(())
    }
}

/// Cancels delayed events that newer state of others overtakes.
pub struct Overtaken(pub Arc<DelayedEvents>);

impl Work for Overtaken {
    type Error = UpdateError;

    const WHAT: &'static str = "delayed events that are overtaken by others";
    const ACTS_AT_ONCE: bool = true;

    fn concerns(&self, event: &Event) -> bool {
        event.pdu.is_state()
    }

    async fn take(&mut self, events: &[(Position, Arc<Event>)], _: &mut Batch) -> Result<(), UpdateError> {
        for (position, event) in events {
            self.0.cancel_overtaken(*position, event).await?;
        }
        Ok(())
    }
}
