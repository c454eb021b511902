//! Keeps the rows of the directory in step with the rooms: each event says whom it concerns, and what is written of them is what the rooms
//! say now. So it does not matter how often, or how late, an event is seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chappe_rooms::Event;
use chappe_store::{
    Batch, Direction, Position, RoomNid, StoreError,
    tables::user_directory::{
        DIRECTORY_MEMBERS, DIRECTORY_ROOMS, DIRECTORY_USERS, DIRECTORY_WORDS, DirectoryUserRecord,
    },
};
use ruma::{OwnedUserId, UserId, events::StateEventType};
use tokio::sync::watch;

use super::UserDirectory;
use crate::{
    event_follower::{Work, WorkError},
    words::words,
};

/// How many events, or members of a room, are dealt with at once.
const BATCH: usize = 500;
/// The most words that one user is found by: of who has more names, some are not found.
const USER_WORDS_MAX: usize = 200;

/// Users, and the rooms in which something of them may have changed.
type Concerned = BTreeMap<OwnedUserId, BTreeSet<RoomNid>>;

/// Keeps the directory in step with the rooms.
pub struct DirectoryWork {
    directory: UserDirectory,
    /// Told of rooms all of whose members have become known.
    completed: watch::Receiver<()>,
}

impl Work for DirectoryWork {
    type Error = WorkError;

    const WHAT: &'static str = "changes of the user directory";
    const EVENTS_AT_ONCE: usize = BATCH;

    fn concerns(&self, event: &Event) -> bool {
        // Where branches of a room meet, members change by what their events come to.
        event.pdu.is_state() || event.pdu.prev_events.len() > 1
    }

    async fn take(&mut self, events: &[(Position, Arc<Event>)], batch: &mut Batch) -> Result<(), WorkError> {
        let mut concerned = Concerned::new();
        let mut rooms = BTreeSet::new();
        for (_, event) in events {
            rooms.insert(event.record.room);
            if let Some(user) = member_of(event) {
                concerned.entry(user).or_default().insert(event.record.room);
            }
        }
        for room in rooms {
            self.directory.apply_residency(room).await?;
        }
        for (user, rooms) in &concerned {
            self.directory.queue_user(batch, user, rooms)?;
        }
        Ok(())
    }

    async fn taken(&mut self, place: Position) -> Result<(), WorkError> {
        self.directory.place.send_replace(place);
        Ok(())
    }

    async fn woken(&mut self) {
        if self.completed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn take_other(&mut self) -> Result<(), WorkError> {
        self.directory.apply_completed_rooms().await
    }
}

impl UserDirectory {
    /// What keeps the directory in step, for an [`crate::event_follower::EventFollower`] from the start.
    pub fn follow(self) -> DirectoryWork {
        let mut completed = self.rooms.subscribe_resyncs();
        // What was completed while nobody followed.
        completed.mark_changed();
        DirectoryWork { directory: self, completed }
    }

    /// Takes in the members of rooms that this server was in before it knew them: they came without being events.
    async fn apply_completed_rooms(&self) -> Result<(), WorkError> {
        for room in self.rooms.scan_resynced_rooms() {
            let room = room?;
            if !self.store().contains(&DIRECTORY_ROOMS, &room)? {
                self.apply_residency(room).await?;
            }
        }
        Ok(())
    }

    /// Takes all members of a room in when this server has come into it, since those who were there before came with its state and not as
    /// events; and takes them out when this server has left.
    async fn apply_residency(&self, room: RoomNid) -> Result<(), WorkError> {
        let is_resident = self.rooms.is_server_joined(room, self.rooms.server_name())?;
        if is_resident == self.store().contains(&DIRECTORY_ROOMS, &room)? {
            return Ok(());
        }
        let members: Vec<OwnedUserId> =
            self.rooms.scan_members(room).map(|row| row.map(|(user, _)| user)).collect::<Result<_, _>>()?;
        for members in members.chunks(BATCH) {
            let mut batch = Batch::new();
            for user in members {
                self.queue_user(&mut batch, user, &BTreeSet::from([room]))?;
            }
            self.store().commit(batch).await?;
        }
        let mut batch = Batch::new();
        if !is_resident {
            batch.delete(&DIRECTORY_ROOMS, &room);
        } else if self.rooms.get_room_by_nid(room)?.is_some_and(|room| !room.record.partial_state) {
            // Of a room that is not known whole yet, more members come without being events.
            batch.put(&DIRECTORY_ROOMS, &room, &());
        }
        self.store().commit(batch).await?;
        Ok(())
    }

    /// Puts into the batch what the rooms say of a user now.
    fn queue_user(&self, batch: &mut Batch, user: &UserId, changed: &BTreeSet<RoomNid>) -> Result<(), StoreError> {
        let store = self.store();
        let mut rooms = BTreeSet::new();
        for row in store.scan(&DIRECTORY_MEMBERS, &(user.to_owned(),), Direction::Forward) {
            let ((_, room), ()) = row?;
            rooms.insert(room);
        }
        for room in changed {
            let key = (user.to_owned(), *room);
            let is_in =
                self.rooms.is_joined(*room, user)? && self.rooms.is_server_joined(*room, self.rooms.server_name())?;
            if is_in && rooms.insert(*room) {
                batch.put(&DIRECTORY_MEMBERS, &key, &());
            } else if !is_in && rooms.remove(room) {
                batch.delete(&DIRECTORY_MEMBERS, &key);
            }
        }
        let (before, after) = (store.get(&DIRECTORY_USERS, &user.to_owned())?, self.words_of(user, &rooms)?);
        let before: BTreeSet<String> = before.unwrap_or_default().words.into_iter().collect();
        if before == after {
            return Ok(());
        }
        for word in before.difference(&after) {
            batch.delete(&DIRECTORY_WORDS, &(word.clone(), user.to_owned()));
        }
        for word in after.difference(&before) {
            batch.put(&DIRECTORY_WORDS, &(word.clone(), user.to_owned()), &());
        }
        if after.is_empty() {
            batch.delete(&DIRECTORY_USERS, &user.to_owned());
        } else {
            let record = DirectoryUserRecord { words: after.into_iter().collect() };
            batch.put(&DIRECTORY_USERS, &user.to_owned(), &record);
        }
        Ok(())
    }

    fn words_of(&self, user: &UserId, rooms: &BTreeSet<RoomNid>) -> Result<BTreeSet<String>, StoreError> {
        let mut found = BTreeSet::new();
        if rooms.is_empty() {
            return Ok(found);
        }
        found.extend(words(user.localpart()));
        if user.server_name() == self.rooms.server_name() {
            found.extend(self.profiles.get_membership_profile(user)?.0.as_deref().map(words).unwrap_or_default());
        }
        for room in rooms {
            if found.len() >= USER_WORDS_MAX {
                break;
            }
            let name = self.rooms.get_member(*room, user)?.and_then(|member| member.value.display_name);
            found.extend(name.as_deref().map(words).unwrap_or_default());
        }
        while found.len() > USER_WORDS_MAX {
            found.pop_last();
        }
        Ok(found)
    }
}

/// The user whose membership an event is.
fn member_of(event: &Event) -> Option<OwnedUserId> {
    match event.pdu.state_tuple() {
        Some((StateEventType::RoomMember, user)) => UserId::parse(user).ok(),
        _ => None,
    }
}
