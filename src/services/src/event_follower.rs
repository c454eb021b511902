//! Following the event log from a stored position: how work that an event causes later (pushes, application services, indexes) is
//! done at least once, whatever is killed in between.
//!
//! A follower reads the events in order, does its work, and commits its new place together with whatever rows the work wrote. It sees every
//! accepted event that came live, of all rooms; what was backfilled is not in the log. Deciding what to do is its owner's business.

use std::sync::Arc;

use chappe_rooms::{Event, Rooms};
use chappe_store::{
    Batch, Direction, Position, StoreError,
    tables::events::{EVENT_LOG, FOLLOWERS},
};
use tokio::sync::Notify;

pub struct EventFollower {
    name: String,
    rooms: Rooms,
    /// Everything up to here has been handed out and dealt with.
    place: Position,
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
        Ok(Self::at(name, rooms, place))
    }

    /// A follower that, if it has never run, begins with the first event of all: for indexes over everything.
    pub fn open_from_start(name: impl Into<String>, rooms: &Rooms) -> Result<Self, StoreError> {
        let name = name.into();
        let place = rooms.store().get(&FOLLOWERS, &name)?.unwrap_or_default();
        Ok(Self::at(name, rooms, place))
    }

    fn at(name: String, rooms: &Rooms, place: Position) -> Self {
        let advanced = Arc::new(Notify::new());
        let notified = advanced.clone();
        rooms.store().observe(move |_, _| notified.notify_one());
        Self { name, rooms: rooms.clone(), place, advanced }
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
        let store = self.rooms.store();
        let end = store.durable_position().next();
        let mut events = Vec::new();
        for row in store.scan_range(&EVENT_LOG, &self.place.next(), &end, Direction::Forward).take(limit) {
            let (position, nid) = row?;
            if let Some(event) = self.rooms.get_event_by_nid(nid)? {
                events.push((position, event));
            }
        }
        Ok(events)
    }

    /// Everything up to here has been dealt with.
    pub fn place(&self) -> Position {
        self.place
    }

    /// Passes over events that are none of the owner's business, without writing that down: after a restart they come again.
    pub fn skip(&mut self, place: Position) {
        self.place = place;
    }

    /// Notes in the batch that everything up to `place` is dealt with, and goes on from there. The owner commits the batch; if that
    /// fails and the process goes down, the events after the last committed place come again.
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
}
