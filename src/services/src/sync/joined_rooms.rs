//! The rooms that each user is joined to, kept between the polls of those who poll: most of them are told nothing, and should not have to
//! read a row per room to learn that.

use std::sync::Arc;

use chappe_rooms::Rooms;
use chappe_store::{Position, RoomNid, StoreError};
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedUserId, UserId};

use super::waiters::{Activity, Waiters};

/// How many rooms are kept, over all users.
const ROOMS_MAX: u64 = 2_000_000;
/// How many users are expected to poll.
const USERS_EXPECTED: usize = 10_000;

/// Rooms of users, in order of their numbers. Cheap to clone.
#[derive(Clone)]
pub struct JoinedRooms {
    rooms: Rooms,
    waiters: Waiters,
    known: Arc<Cache<OwnedUserId, Known, WeightByRooms>>,
}

#[derive(Clone)]
struct Known {
    /// Every membership of the user was as old as this when it was read.
    as_of: Position,
    rooms: Arc<[RoomNid]>,
}

#[derive(Clone)]
struct WeightByRooms;

impl Weighter<OwnedUserId, Known> for WeightByRooms {
    fn weight(&self, _: &OwnedUserId, known: &Known) -> u64 {
        // What an entry takes besides comes to about as much as ten rooms.
        10 + u64::try_from(known.rooms.len()).unwrap_or(u64::MAX - 10)
    }
}

impl JoinedRooms {
    pub fn new(rooms: Rooms, waiters: Waiters) -> Self {
        Self { rooms, waiters, known: Arc::new(Cache::with_weighter(USERS_EXPECTED, ROOMS_MAX, WeightByRooms)) }
    }

    /// The rooms as of a durable position; `None` if a membership has changed since, so that the rows alone do not tell.
    pub fn get_as_of(&self, user: &UserId, to: Position) -> Result<Option<Arc<[RoomNid]>>, StoreError> {
        if let Some(known) = self.known.get(user)
            && known.as_of <= to
            && self.waiters.user_activity(user, known.as_of) == Activity::None
        {
            return Ok(Some(known.rooms));
        }
        let mut joined = Vec::new();
        for row in self.rooms.scan_user_rooms(user) {
            let (room, member) = row?;
            if member.position > to {
                return Ok(None);
            }
            if member.value.membership == "join" {
                joined.push(room);
            }
        }
        let known = Known { as_of: to, rooms: joined.into() };
        self.known.insert(user.to_owned(), known.clone());
        Ok(Some(known.rooms))
    }

    /// The rooms as of now, changes that are not durable yet perhaps among them.
    pub fn get(&self, user: &UserId) -> Result<Arc<[RoomNid]>, StoreError> {
        match self.get_as_of(user, self.waiters.position())? {
            Some(rooms) => Ok(rooms),
            None => Ok(self.rooms.get_joined_rooms(user)?.into()),
        }
    }
}
