//! Following the event log from a stored position: how work that an event causes later (pushes, application services, indexes) is
//! done at least once, whatever is killed in between.
//!
//! A follower reads the events in order, has its work done, and commits its new place together with whatever rows the work wrote. It sees
//! every accepted event that came live, of all rooms; what was backfilled is in a log of its own. What to do is the [`Work`]'s business.
//! Where there was nothing to do the new place is only noted now and then: after a restart those events come again, for nothing.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use chappe_rooms::{Event, Rooms};
use chappe_store::{Batch, CommitError, Position, StoreError, Topic, tables::events::FOLLOWERS};
use tokio::sync::Notify;

/// How long after trouble the same events are given to the work again.
pub(crate) const TROUBLE_PAUSE: Duration = Duration::from_secs(5);

/// How long a follower rests after a round in which it has caught up, so that under load it takes many events at a time.
const REST: Duration = Duration::from_millis(10);

/// How many events a follower passes over at most before it notes its place.
const PASSED_OVER_MAX: usize = 1000;

/// What is done with the events of the log.
pub trait Work: Send {
    type Error: fmt::Display + From<StoreError> + From<CommitError> + Send;

    /// What stands still while it fails, for the server's own log.
    const WHAT: &'static str;
    /// How many events are dealt with in one batch.
    const EVENTS_AT_ONCE: usize = 100;
    /// Whether it does more than to put rows into the batch.
    const ACTS_AT_ONCE: bool = false;

    /// Whether an event can be its business. It is not given the others.
    fn concerns(&self, _event: &Event) -> bool {
        true
    }

    /// Deals with events, and puts its rows into the batch that also moves the follower on.
    fn take(
        &mut self,
        events: &[(Position, Arc<Event>)],
        batch: &mut Batch,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Called when everything up to this place is dealt with, and the batch, if it held anything, durable.
    fn taken(&mut self, _place: Position) -> impl Future<Output = Result<(), Self::Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Ends when there is something to do beside events. May be dropped at any time, and asked again.
    fn woken(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Does what it was woken for.
    fn take_other(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        std::future::ready(Ok(()))
    }
}

/// Work that has no errors of its own.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// Which events are followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Log {
    /// Those that came live.
    Live,
    /// Those that were backfilled.
    History,
}

pub struct EventFollower {
    name: String,
    rooms: Rooms,
    log: Log,
    /// Everything up to here has been handed out and dealt with.
    place: Position,
    /// How many events lie between the place that is stored and the one reached.
    passed_over: usize,
    /// The last round took as many events as it could: there may be more.
    is_behind: bool,
    advanced: Arc<Notify>,
}

impl EventFollower {
    /// A follower that goes on where it stopped. One that has never run begins with what comes from now on.
    pub fn open(name: impl Into<String>, rooms: &Rooms) -> Result<Self, StoreError> {
        let name = name.into();
        let store = rooms.store();
        let place = match store.get(&FOLLOWERS, &name)? {
            Some(place) => place,
            None => store.durable_position(),
        };
        Ok(Self::at(name, rooms, Log::Live, place))
    }

    /// A follower that, if it has never run, begins with the first event of all: for indexes over everything.
    pub fn open_from_start(name: impl Into<String>, rooms: &Rooms) -> Result<Self, StoreError> {
        let name = name.into();
        let place = rooms.store().get(&FOLLOWERS, &name)?.unwrap_or_default();
        Ok(Self::at(name, rooms, Log::Live, place))
    }

    /// The same for the events that were backfilled, in the order in which they came: not the one in which they were sent.
    pub fn open_history(name: impl Into<String>, rooms: &Rooms) -> Result<Self, StoreError> {
        let name = name.into();
        let place = rooms.store().get(&FOLLOWERS, &name)?.unwrap_or_default();
        Ok(Self::at(name, rooms, Log::History, place))
    }

    fn at(name: String, rooms: &Rooms, log: Log, place: Position) -> Self {
        let advanced = Arc::new(Notify::new());
        let notified = advanced.clone();
        rooms.store().observe(move |_, topics| {
            if topics.iter().any(|topic| matches!(topic, Topic::Room(_))) {
                notified.notify_one();
            }
        });
        Self { name, rooms: rooms.clone(), log, place, passed_over: 0, is_behind: false, advanced }
    }

    /// Has the work done for every event that comes, for ever.
    pub async fn run<W: Work>(mut self, mut work: W) {
        loop {
            if let Err(error) = self.step(&mut work).await {
                tracing::error!(%error, "{} stand still for now", W::WHAT);
                self.is_behind = false;
                tokio::time::sleep(TROUBLE_PAUSE).await;
            }
            match self.is_behind {
                true => tokio::task::yield_now().await,
                false => tokio::time::sleep(REST).await,
            }
        }
    }

    /// Has the work done for the next events, or for what it wakes for; waits until there is something. After an error the same events
    /// come again.
    pub async fn step<W: Work>(&mut self, work: &mut W) -> Result<(), W::Error> {
        let events = tokio::select! {
            events = self.next(W::EVENTS_AT_ONCE) => events?,
            () = work.woken() => return work.take_other().await,
        };
        let Some((place, _)) = events.last() else { return Ok(()) };
        let (place, count) = (*place, events.len());
        self.is_behind = count >= W::EVENTS_AT_ONCE;
        let concerned: Vec<_> = events.into_iter().filter(|(_, event)| work.concerns(event)).collect();
        let mut batch = Batch::new();
        if !concerned.is_empty() {
            work.take(&concerned, &mut batch).await?;
        }
        let has_acted = !batch.is_empty() || (W::ACTS_AT_ONCE && !concerned.is_empty());
        if has_acted || self.passed_over + count > PASSED_OVER_MAX {
            batch.put(&FOLLOWERS, &self.name, &place);
            self.rooms.store().commit(batch).await?;
            self.passed_over = 0;
        } else {
            self.passed_over += count;
        }
        self.place = place;
        work.taken(place).await
    }

    /// The next events, at most `limit` of them and only durable ones; waits until there is one.
    ///
    /// The same events are given again until [`EventFollower::advance`] is called.
    pub async fn next(&self, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, StoreError> {
        loop {
            let events = self.read(limit)?;
            if !events.is_empty() {
                return Ok(events);
            }
            self.advanced.notified().await;
        }
    }

    /// The next events as [`EventFollower::next`] gives them, without waiting: none if there is none yet.
    pub fn read(&self, limit: usize) -> Result<Vec<(Position, Arc<Event>)>, StoreError> {
        let rows = match self.log {
            Log::Live => self.rooms.read_event_log(self.place, limit)?,
            Log::History => self.rooms.read_backfill_log(self.place, limit)?,
        };
        let rows = rows.into_iter().map(Ok);
        self.rooms.with_events(rows, limit).collect()
    }

    /// Everything up to here has been dealt with.
    pub fn place(&self) -> Position {
        self.place
    }

    /// Passes over events that are none of the owner's business, without writing that down: after a restart they come again.
    pub fn skip(&mut self, place: Position) {
        self.place = place;
    }

    /// For those who do without [`EventFollower::step`]: notes in the batch that everything up to `place` is dealt with, and goes on from
    /// there. The owner commits the batch; if that fails and the process goes down, the events after the last committed place come again.
    pub fn advance(&mut self, batch: &mut Batch, place: Position) {
        batch.put(&FOLLOWERS, &self.name, &place);
        self.place = place;
    }
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use chappe_rooms::create::Preset;
    use chappe_store::Store;
    use ruma::user_id;

    use super::*;
    use crate::test_rooms;

    fn ids(events: &[(Position, Arc<Event>)]) -> Vec<String> {
        events.iter().map(|(_, event)| event.pdu.event_id.to_string()).collect()
    }

    #[tokio::test]
    async fn follower_goes_on_after_the_last_committed_place_and_repeats_what_was_not() {
        let store = Store::in_memory();
        let rooms = test_rooms::rooms(&store, Arc::new(ManualClock::new(1_700_000_000_000)));
        let alice = user_id!("@alice:here.example");
        let room = test_rooms::create(&rooms, alice, Preset::PrivateChat).await;

        let mut follower = EventFollower::open("test", &rooms).unwrap();
        let first = test_rooms::say(&rooms, alice, &room, "one").await;
        let events = follower.next(10).await.unwrap();
        assert_eq!(ids(&events), [first.to_string()], "what was before a follower first ran is not its business");

        let mut batch = Batch::new();
        follower.advance(&mut batch, events[0].0);
        store.commit(batch).await.unwrap();
        let second = test_rooms::say(&rooms, alice, &room, "two").await;
        assert_eq!(ids(&follower.next(10).await.unwrap()), [second.to_string()]);

        let again = EventFollower::open("test", &rooms).unwrap();
        assert_eq!(ids(&again.next(10).await.unwrap()), [second.to_string()], "it was given out and not dealt with");
        let indexer = EventFollower::open_from_start("index", &rooms).unwrap();
        assert!(indexer.next(100).await.unwrap().len() > 2, "an index begins with the first event of all");
    }

    /// Counts the state events it is given, and writes nothing.
    struct CountState(usize);

    impl Work for CountState {
        type Error = WorkError;

        const WHAT: &'static str = "counting";

        fn concerns(&self, event: &Event) -> bool {
            event.pdu.is_state()
        }

        async fn take(&mut self, events: &[(Position, Arc<Event>)], batch: &mut Batch) -> Result<(), WorkError> {
            self.0 += events.len();
            batch.put(&FOLLOWERS, &"work".to_owned(), &Position(self.0 as u64));
            Ok(())
        }
    }

    #[tokio::test]
    async fn events_that_concern_nobody_are_passed_over_without_a_write() {
        let store = Store::in_memory();
        let rooms = test_rooms::rooms(&store, Arc::new(ManualClock::new(1_700_000_000_000)));
        let alice = user_id!("@alice:here.example");
        let room = test_rooms::create(&rooms, alice, Preset::PrivateChat).await;
        let mut follower = EventFollower::open("test", &rooms).unwrap();
        let (mut work, before) = (CountState(0), follower.place());

        test_rooms::say(&rooms, alice, &room, "one").await;
        let written = store.durable_position();
        follower.step(&mut work).await.unwrap();
        assert_eq!((work.0, store.durable_position()), (0, written));
        assert!(follower.place() > before, "it goes on all the same");

        test_rooms::send_state(&rooms, alice, &room, "org.example.state", "", serde_json::json!({ "a": 1 })).await;
        follower.step(&mut work).await.unwrap();
        assert_eq!(work.0, 1);
        assert_eq!(store.get(&FOLLOWERS, &"test".to_owned()).unwrap(), Some(follower.place()));

        for number in 0..=PASSED_OVER_MAX {
            test_rooms::say(&rooms, alice, &room, &number.to_string()).await;
        }
        let noted = follower.place();
        for _ in 0..=PASSED_OVER_MAX / CountState::EVENTS_AT_ONCE {
            follower.step(&mut work).await.unwrap();
        }
        let place = store.get(&FOLLOWERS, &"test".to_owned()).unwrap();
        assert!(place.is_some_and(|place| place > noted), "now and then the place is noted");
    }
}
