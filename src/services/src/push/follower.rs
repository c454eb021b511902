//! Follows the event log, and queues for the pushers of each event's readers what their rules want them told.
//!
//! An event is prepared once for all its readers. Who of a room's members has a pusher is kept by room, and follows the members'
//! events. Invites to rooms that this server is not in are in no event log: they are found by the membership log of the invited.

use std::{
    collections::{BTreeSet, HashSet},
    num::NonZeroUsize,
    sync::Arc,
};

use chappe_protocol::clock::Clock;
use chappe_rooms::{Event, Rooms};
use chappe_store::{
    Batch, Direction, Position, RoomNid, StoreError, Topic,
    tables::{
        events::FOLLOWERS,
        push::{PUSH_QUEUE, QueuedPush},
        rooms::MEMBERSHIP_LOG,
    },
};
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{
    OwnedUserId, UInt, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use tokio::sync::Notify;

use super::{
    delivery::Deliveries,
    evaluate::{Candidate, Candidates, Judge},
    pushers::Pushers,
    rules::PushRules,
    triage::is_silent,
};
use crate::{
    account_data::AccountData,
    event_follower::{Work, WorkError},
};

/// Under which name it is kept how far membership logs have been looked at.
const INVITES_FOLLOWER: &str = "push_invites";

/// Of how many rooms it is known who has a pusher.
const ROOMS_MAX: usize = 1_000;

/// What following the log needs.
pub struct PushSources {
    pub rooms: Rooms,
    pub account_data: Arc<AccountData>,
    pub rules: Arc<PushRules>,
    pub candidates: Arc<Candidates>,
    pub pushers: Arc<Pushers>,
    pub deliveries: Deliveries,
    pub clock: Arc<dyn Clock>,
}

/// Queues notifications.
pub struct PushFollower {
    sources: PushSources,
    /// Room -> those of its joined members who may have a pusher; right as of this generation of owners.
    readers: LruCache<RoomNid, HashSet<OwnedUserId>>,
    generation: u64,
    invited: Arc<Invited>,
    /// Up to here the membership logs have been looked at.
    invites_to: Position,
    /// Whose pushers have something to do once the batch is durable.
    woken: BTreeSet<OwnedUserId>,
}

/// Whose membership may have changed.
#[derive(Default)]
struct Invited {
    noted: Mutex<Noted>,
    changed: Notify,
}

#[derive(Default)]
struct Noted {
    users: BTreeSet<OwnedUserId>,
    /// Everything up to here has been noted.
    to: Position,
}

impl PushFollower {
    /// Goes on where it stopped.
    pub fn open(sources: PushSources) -> Result<Self, StoreError> {
        let invited = Arc::new(Invited::default());
        let noted = invited.clone();
        let pushers = sources.pushers.clone();
        sources.rooms.store().observe(move |durable, topics| {
            let users = topics.iter().filter_map(|topic| match topic {
                Topic::User(user) if pushers.is_owner(user) => Some(user.clone()),
                _ => None,
            });
            let mut inner = noted.noted.lock();
            inner.users.extend(users);
            inner.to = inner.to.max(durable);
            if !inner.users.is_empty() {
                noted.changed.notify_one();
            }
        });
        let store = sources.rooms.store();
        let durable = store.durable_position();
        let invites_to = store.get(&FOLLOWERS, &INVITES_FOLLOWER.to_owned())?.unwrap_or(durable);
        {
            // What was not dealt with before a restart.
            let mut inner = invited.noted.lock();
            inner.users.extend(sources.pushers.get_owners().1);
            inner.to = inner.to.max(durable);
            invited.changed.notify_one();
        }
        let capacity = NonZeroUsize::new(ROOMS_MAX).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            sources,
            readers: LruCache::new(capacity),
            generation: 0,
            invited,
            invites_to,
            woken: BTreeSet::new(),
        })
    }

    fn queue_event(&mut self, batch: &mut Batch, position: Position, event: &Arc<Event>) -> Result<(), StoreError> {
        let mut readers = self.get_readers(event)?;
        if self.sources.pushers.is_owner(&event.pdu.sender) {
            // Whoever writes has read.
            self.woken.insert(event.pdu.sender.clone());
            readers.retain(|reader| *reader != event.pdu.sender);
        }
        let mut judging = Vec::with_capacity(readers.len());
        for reader in readers {
            let rules = self.sources.rules.get_ruleset(&reader)?;
            if !is_silent(&rules, &event.pdu) {
                judging.push((reader, rules));
            }
        }
        if judging.is_empty() {
            return Ok(());
        }
        let Some(room) = self.sources.rooms.get_room_by_nid(event.record.room)? else { return Ok(()) };
        let Some(candidate) = self.sources.candidates.get(event)? else { return Ok(()) };
        let member_count = UInt::new_saturating(self.sources.rooms.get_joined_count(room.nid)?);
        for (reader, rules) in judging {
            let mut judge = Judge::with_member_count(&self.sources.rooms, &room, &reader, rules, member_count)?;
            if self.queue_for(batch, position, &candidate, &reader, &mut judge)? {
                self.woken.insert(reader);
            }
        }
        Ok(())
    }

    /// Queues an event for a user's pushers, if the user wants to be told of it.
    fn queue_for(
        &self,
        batch: &mut Batch,
        position: Position,
        candidate: &Candidate,
        user_id: &UserId,
        judge: &mut Judge,
    ) -> Result<bool, StoreError> {
        let event = &candidate.event;
        let Some(verdict) = judge.judge(candidate, &self.sources.candidates)? else { return Ok(false) };
        if self.sources.account_data.get_ignored_users(user_id)?.contains(&event.pdu.sender) {
            return Ok(false);
        }
        let push = QueuedPush {
            room: event.record.room,
            nid: event.nid,
            actions: serde_json::to_string(verdict.actions).unwrap_or_default(),
            queued_at_ms: self.sources.clock.now_ms(),
        };
        let mut is_queued = false;
        for (key, record) in self.sources.pushers.scan_pushers(user_id)? {
            if self.sources.deliveries.serves(&record) {
                batch.put(&PUSH_QUEUE, &(key.user_id, key.app_id, key.pushkey, position), &push);
                is_queued = true;
            }
        }
        Ok(is_queued)
    }

    /// Whose pushers an event of the room may concern: joined members, and whom the event invites.
    fn get_readers(&mut self, event: &Event) -> Result<Vec<OwnedUserId>, StoreError> {
        let room = event.record.room;
        let generation = self.sources.pushers.get_generation();
        if generation != self.generation {
            self.readers.clear();
            self.generation = generation;
        }
        let target = event.pdu.membership().zip(event.pdu.state_key().and_then(|user| UserId::parse(user).ok()));
        let target = target.filter(|(_, user)| self.sources.pushers.is_owner(user));
        if let (Some((membership, user)), Some(readers)) = (&target, self.readers.get_mut(&room)) {
            match membership {
                MembershipState::Join => readers.insert(user.clone()),
                _ => readers.remove(user),
            };
        }
        if !self.readers.contains(&room) {
            let found = self.find_readers(room)?;
            self.readers.put(room, found);
        }
        let mut readers: Vec<_> = self.readers.get(&room).into_iter().flatten().cloned().collect();
        if let Some((MembershipState::Invite, user)) = target {
            readers.push(user);
        }
        Ok(readers)
    }

    fn find_readers(&self, room: RoomNid) -> Result<HashSet<OwnedUserId>, StoreError> {
        let rooms = &self.sources.rooms;
        let (_, owners) = self.sources.pushers.get_owners();
        let mut readers = HashSet::new();
        // Whichever are fewer are looked through.
        if (owners.len() as u64) < rooms.get_joined_count(room)? {
            for owner in owners {
                if rooms.is_joined(room, &owner)? {
                    readers.insert(owner);
                }
            }
        } else {
            for row in rooms.scan_members(room) {
                let (user, member) = row?;
                if member.value.membership == "join" && self.sources.pushers.is_owner(&user) {
                    readers.insert(user);
                }
            }
        }
        Ok(readers)
    }

    /// Queues invites to rooms of which only the invite is known here.
    async fn take_invites(&mut self) -> Result<(), WorkError> {
        let (users, to) = {
            let mut noted = self.invited.noted.lock();
            (std::mem::take(&mut noted.users), noted.to)
        };
        let rooms = self.sources.rooms.clone();
        let mut batch = Batch::new();
        let mut woken = BTreeSet::new();
        for user_id in users {
            let (start, end) = ((user_id.clone(), self.invites_to.next()), (user_id.clone(), to.next()));
            for row in rooms.store().scan_range(&MEMBERSHIP_LOG, &start, &end, Direction::Forward) {
                let ((_, position), nid) = row?;
                let Some(member) = rooms.get_user_room(&user_id, nid)? else { continue };
                let event = member.value.event.map(|nid| rooms.get_event_by_nid(nid)).transpose()?.flatten();
                let Some(event) = event.filter(|event| !event.is_accepted() && is_invite(event, &user_id)) else {
                    continue;
                };
                if member.position != position {
                    continue;
                }
                let Some(candidate) = Candidate::of_outlier(event) else { continue };
                let mut judge = Judge::of_unknown_room(
                    &candidate.event.pdu.room_id,
                    &user_id,
                    self.sources.rules.get_ruleset(&user_id)?,
                );
                if self.queue_for(&mut batch, position, &candidate, &user_id, &mut judge)? {
                    woken.insert(user_id.clone());
                }
            }
        }
        if !batch.is_empty() {
            batch.put(&FOLLOWERS, &INVITES_FOLLOWER.to_owned(), &to);
            rooms.store().commit(batch).await?;
        }
        self.invites_to = to;
        for user_id in woken {
            self.sources.deliveries.wake(&user_id)?;
        }
        Ok(())
    }
}

impl Work for PushFollower {
    type Error = WorkError;

    const WHAT: &'static str = "notifications";

    async fn take(&mut self, events: &[(Position, Arc<Event>)], batch: &mut Batch) -> Result<(), WorkError> {
        for (position, event) in events {
            self.queue_event(batch, *position, event)?;
        }
        Ok(())
    }

    async fn taken(&mut self, _: Position) -> Result<(), WorkError> {
        for user_id in std::mem::take(&mut self.woken) {
            self.sources.deliveries.wake(&user_id)?;
        }
        Ok(())
    }

    async fn woken(&mut self) {
        self.invited.changed.notified().await;
    }

    async fn take_other(&mut self) -> Result<(), WorkError> {
        self.take_invites().await
    }
}

fn is_invite(event: &Event, user_id: &UserId) -> bool {
    event.pdu.is_state_event(&TimelineEventType::RoomMember, user_id.as_str())
        && event.pdu.membership() == Some(MembershipState::Invite)
}
