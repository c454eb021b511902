//! Full-text search in rooms (client-server API, "Server Side Search").
//!
//! [`index`] knows which events hold which words. It is fed here, behind the event log and the log of what was backfilled, at least once:
//! its own commit says up to where it goes, and the followers' stored places move only after it. [`find`] asks it, and decides who sees
//! what. A search waits for the index to have everything that was sent before, so that people find what they just wrote; what is fetched
//! from other servers' history meanwhile may be found a little later. Encrypted messages have no words that a server can read.

mod find;
mod index;
mod query;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use chappe_rooms::{Event, RoomError, Rooms};
use chappe_store::{
    Batch, CommitError, Direction, Position, StoreError,
    tables::events::{EVENT_LOG, FOLLOWERS},
};
use ruma::{UserId, events::TimelineEventType};
use tokio::{
    sync::{Mutex, Notify, watch},
    task::JoinError,
    time::{sleep, timeout},
};

pub use find::{Group, Hit, HitContext, SearchResults};
pub use index::{IndexError, SearchIndex};
pub use query::{GroupKey, SearchRequest};

use self::index::{Places, recency_of};
use crate::event_follower::{EventFollower, Work};

const FOLLOWER: &str = "search";
const HISTORY_FOLLOWER: &str = "search_history";
/// How many events are put into the index at once.
const BATCH_EVENTS: usize = 1_000;
/// How long events are collected before they are written to disk together, after the last time, unless a search waits for them.
const COLLECT: Duration = Duration::from_secs(1);
/// How long a search waits for the index.
const CATCH_UP: Duration = Duration::from_secs(5);
/// How long to wait before an index that could not be read is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// A search that was not done.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error("search is disabled on this server")]
    Disabled,
    #[error("{0}")]
    Invalid(&'static str),
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error("the search was interrupted: {0}")]
    Task(#[from] JoinError),
}

/// Why the index could not go on.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
    #[error(transparent)]
    Task(#[from] JoinError),
}

pub struct Search {
    rooms: Rooms,
    index: Option<Arc<SearchIndex>>,
    /// Everything up to here can be found.
    indexed_to: watch::Sender<Position>,
    /// Somebody waits.
    wanted: Notify,
}

impl Search {
    /// Without an index, every search is refused.
    pub fn new(rooms: Rooms, index: Option<SearchIndex>) -> Self {
        let (indexed_to, _) = watch::channel(Position::ZERO);
        Self { rooms, index: index.map(Arc::new), indexed_to, wanted: Notify::new() }
    }

    /// Keeps the index in step with the rooms, for ever.
    pub async fn run(self: Arc<Self>) {
        let Some(index) = self.index.clone() else { return };
        loop {
            match self.open_followers(&index).await {
                Ok((places, live, history)) => {
                    let places = Arc::new(Mutex::new(places));
                    let indexing =
                        |log| Indexing { search: self.clone(), index: index.clone(), log, places: places.clone() };
                    tokio::join!(live.run(indexing(Log::Live)), history.run(indexing(Log::History)));
                    return;
                }
                Err(error) => tracing::error!(%error, "the search index cannot be opened for new events"),
            }
            sleep(RETRY).await;
        }
    }

    /// Followers of both logs that go on where the index ends. It knows best: it may be new, or older than the store.
    async fn open_followers(&self, index: &SearchIndex) -> Result<(Places, EventFollower, EventFollower), FollowError> {
        let store = self.rooms.store();
        let places = index.places()?;
        let mut batch = Batch::new();
        for (name, place) in [(FOLLOWER, places.live), (HISTORY_FOLLOWER, places.history)] {
            if store.get(&FOLLOWERS, &name.to_owned())?.unwrap_or_default() != place {
                batch.put(&FOLLOWERS, &name.to_owned(), &place);
            }
        }
        if !batch.is_empty() {
            store.commit(batch).await?;
        }
        self.indexed_to.send_replace(places.live);
        let live = EventFollower::open_from_start(FOLLOWER, &self.rooms)?;
        Ok((places, live, EventFollower::open_history(HISTORY_FOLLOWER, &self.rooms)?))
    }

    /// Lets events come together, so that they are written to disk together, unless a search waits for them.
    async fn collect(&self) {
        tokio::select! {
            () = sleep(COLLECT) => {}
            () = self.wanted.notified() => {}
        }
    }

    /// Waits, but not for ever, until what has been sent so far can be found. The answer is the position of the newest event.
    async fn catch_up(&self) -> Result<Position, StoreError> {
        let newest = self.rooms.store().scan(&EVENT_LOG, &(), Direction::Reverse).next().transpose()?;
        let Some((newest, _)) = newest else { return Ok(Position::ZERO) };
        let mut indexed_to = self.indexed_to.subscribe();
        if *indexed_to.borrow_and_update() < newest {
            self.wanted.notify_one();
            if timeout(CATCH_UP, indexed_to.wait_for(|place| *place >= newest)).await.is_err() {
                tracing::info!("a search was answered before the index had everything");
            }
        }
        Ok(newest)
    }

    /// Searches the rooms that a user is or was in.
    pub async fn search(&self, user: &UserId, request: SearchRequest) -> Result<SearchResults, SearchError> {
        let index = self.index.as_ref().ok_or(SearchError::Disabled)?;
        let newest = self.catch_up().await?;
        find::find(&self.rooms, index, user, request, newest).await
    }
}

/// The logs that are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Log {
    Live,
    /// Of what is backfilled. No search waits for it.
    History,
}

/// Indexes what comes in one of the logs.
struct Indexing {
    search: Arc<Search>,
    index: Arc<SearchIndex>,
    log: Log,
    /// Shared by both, so that they write one at a time: a commit of the index holds all that was put in.
    places: Arc<Mutex<Places>>,
}

impl Work for Indexing {
    type Error = FollowError;

    const WHAT: &'static str = "additions to the search index";
    const EVENTS_AT_ONCE: usize = BATCH_EVENTS;
    const ACTS_AT_ONCE: bool = true;

    /// Puts events in, and writes that down together with how far the index goes then.
    async fn take(&mut self, events: &[(Position, Arc<Event>)], _: &mut Batch) -> Result<(), FollowError> {
        let Some((place, _)) = events.last() else { return Ok(()) };
        let mut places = self.places.lock().await;
        let new_places = match self.log {
            Log::Live => Places { live: *place, ..*places },
            Log::History => Places { history: *place, ..*places },
        };
        let (rooms, index, log, events) = (self.search.rooms.clone(), self.index.clone(), self.log, events.to_vec());
        let written = tokio::task::spawn_blocking(move || {
            for (position, event) in &events {
                put(&rooms, &index, (log == Log::Live).then_some(*position), event)?;
            }
            Ok::<_, FollowError>(index.commit(new_places)?)
        });
        if let Err(error) = written.await.map_err(FollowError::from).flatten() {
            if let Err(error) = self.index.rollback() {
                tracing::error!(%error, "the search index could not be taken back to its last commit");
            }
            return Err(error);
        }
        *places = new_places;
        Ok(())
    }

    async fn taken(&mut self, place: Position) -> Result<(), FollowError> {
        match self.log {
            Log::Live => {
                self.search.indexed_to.send_replace(place);
                self.search.collect().await;
            }
            Log::History => sleep(COLLECT).await,
        }
        Ok(())
    }
}

fn put(rooms: &Rooms, index: &SearchIndex, live: Option<Position>, event: &Event) -> Result<(), FollowError> {
    index.put(recency_of(event, live), event)?;
    if event.pdu.kind == TimelineEventType::RoomRedaction
        && let Some(room) = rooms.get_room_by_nid(event.record.room)?
        && let Some(target) = event.pdu.redaction_target(&room.rules)
        && let Some(target) = rooms.get_event(target)?
        && target.record.redacted_because.is_some()
    {
        index.delete(target.nid);
    }
    Ok(())
}
