//! What a user has not read: notification and highlight counts of rooms and of their threads.
//!
//! Nothing is written when an event comes: counts are worked out when somebody asks, from the timeline after the user's newest
//! receipts, and kept. The next time only the events that came since are looked at, and what receipts, own messages or redactions
//! have covered meanwhile is taken away. A count that took long to work out is written down as well. What was counted by the rules
//! of its time stays counted when the rules change.
//!
//! Spec: Client-Server API, Receiving notifications and Marking notifications as read.

mod counter;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    num::NonZeroUsize,
    sync::Arc,
};

use chappe_rooms::{Event, Room, RoomError, Rooms};
use chappe_store::{
    Batch, EventNid, Order, Position, RoomNid, Stamped, StoreError,
    tables::{push::UNREAD, rooms::MemberRecord},
};
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{
    EventId, OwnedEventId, OwnedUserId, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde::Serialize;

use self::counter::Counter;
use super::{
    evaluate::{Candidates, Judge, get_thread},
    rules::PushRules,
    triage::is_silent,
};
use crate::{
    account_data::AccountData,
    receipts::Receipts,
    sync::waiters::{Activity, Waiters},
};

/// How many unread events of a room are kept for a user: of more, the oldest count as read.
const UNREAD_MAX: usize = 5_000;

/// How many events are looked at in one go: what is older counts as read.
const LOOKED_AT_MAX: usize = 50_000;

/// After how many events looked at the outcome is written down.
const WRITE_AFTER: usize = 500;

/// How many events are read at a time.
const READ_AT_ONCE: usize = 50;

/// How many counters are kept in memory, and how many places of unread events in all of them: 8 bytes each.
const COUNTERS_MAX: usize = 50_000;
const HELD_MAX: usize = 1_000_000;

/// How many changes of a user's profile in a room are followed back to their joining.
const PROFILE_CHANGES_MAX: usize = 1_000;

/// The root of a thread; `None`: the main timeline.
type Thread = Option<OwnedEventId>;

/// How much is unread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Count {
    #[serde(rename = "highlight_count")]
    pub highlights: u64,
    #[serde(rename = "notification_count")]
    pub notifications: u64,
}

/// What is unread in a room.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnreadCounts {
    /// What is in no thread.
    pub main: Count,
    /// The threads in which something is unread.
    pub threads: BTreeMap<OwnedEventId, Count>,
    /// The place in the log at which the counts last changed, or one shortly after it.
    pub changed_at: Position,
}

impl UnreadCounts {
    /// Of the room with all its threads.
    pub fn total(&self) -> Count {
        let mut total = self.main;
        for thread in self.threads.values() {
            total.notifications += thread.notifications;
            total.highlights += thread.highlights;
        }
        total
    }
}

/// Up to where threads have been read.
#[derive(Default)]
struct ReadMarks {
    /// By unthreaded receipts: everything.
    all: Position,
    /// The main timeline.
    main: Position,
    threads: HashMap<OwnedEventId, Position>,
    /// When the newest receipt was written.
    newest: Position,
}

impl ReadMarks {
    fn read_to(&self, thread: Option<&OwnedEventId>) -> Position {
        let read_to = match thread {
            None => self.main,
            Some(root) => self.threads.get(root).copied().unwrap_or_default(),
        };
        read_to.max(self.all)
    }

    fn mark(&mut self, thread: Thread, position: Position) {
        let read_to = match thread {
            None => &mut self.main,
            Some(root) => self.threads.entry(root).or_default(),
        };
        *read_to = position.max(*read_to);
    }
}

type Slot = Arc<Mutex<Option<Counter>>>;

struct Counters {
    slots: LruCache<(OwnedUserId, RoomNid), Slot>,
    /// Places of unread events in all of them, more or less.
    held: usize,
}

impl Counters {
    fn get_slot(&mut self, key: (OwnedUserId, RoomNid)) -> Slot {
        if let Some(slot) = self.slots.get(&key) {
            return slot.clone();
        }
        let slot = Slot::default();
        if let Some((_, forgotten)) = self.slots.push(key, slot.clone()) {
            self.note_forgotten(&forgotten);
        }
        slot
    }

    /// One that is in use is forgotten all the same; its user keeps it to the end of the call.
    fn note_forgotten(&mut self, slot: &Slot) {
        let len = slot.try_lock().and_then(|slot| slot.as_ref().map(Counter::held));
        self.held = self.held.saturating_sub(len.unwrap_or_default());
    }
}

/// The unread counts of this server's users.
pub struct Unread {
    rooms: Rooms,
    receipts: Arc<Receipts>,
    account_data: Arc<AccountData>,
    rules: Arc<PushRules>,
    candidates: Arc<Candidates>,
    waiters: Waiters,
    counters: Mutex<Counters>,
}

/// An event that the user is to be notified of.
struct Found {
    thread: Thread,
    position: Position,
    is_highlight: bool,
}

/// What one look at a stretch of a timeline found.
#[derive(Default)]
struct Stretch {
    /// Newest first.
    found: Vec<Found>,
    redaction_targets: Vec<OwnedEventId>,
    looked_at: usize,
}

impl Unread {
    pub fn new(
        rooms: Rooms,
        receipts: Arc<Receipts>,
        account_data: Arc<AccountData>,
        rules: Arc<PushRules>,
        candidates: Arc<Candidates>,
        waiters: Waiters,
    ) -> Self {
        let capacity = NonZeroUsize::new(COUNTERS_MAX).unwrap_or(NonZeroUsize::MIN);
        let counters = Mutex::new(Counters { slots: LruCache::new(capacity), held: 0 });
        Self { rooms, receipts, account_data, rules, candidates, waiters, counters }
    }

    /// What is unread for a user in a room, as of `to`, a durable position, or a little later.
    pub fn get_counts(&self, user_id: &UserId, room: &Room, to: Position) -> Result<UnreadCounts, RoomError> {
        self.with_counter(user_id, room, to, Counter::counts)
    }

    /// How many events are unread in all rooms that a user is joined to.
    pub fn get_badge(&self, user_id: &UserId) -> Result<u64, RoomError> {
        let to = self.waiters.position();
        let mut badge = 0;
        for nid in self.rooms.get_joined_rooms(user_id)? {
            let Some(room) = self.rooms.get_room_by_nid(nid)? else { continue };
            badge += self.get_counts(user_id, &room, to)?.total().notifications;
        }
        Ok(badge)
    }

    /// Whether the user was notified of an event and has not read it.
    pub fn is_unread(&self, user_id: &UserId, room: &Room, nid: EventNid) -> Result<bool, RoomError> {
        let Some(Order::Live(position)) = self.rooms.get_event_order(nid)? else { return Ok(false) };
        self.with_counter(user_id, room, self.waiters.position(), |counter| counter.contains(position))
    }

    /// The place in the log at which the user's present stay in a room began.
    pub fn get_joined_at(&self, user_id: &UserId, room: &Room) -> Result<Position, RoomError> {
        self.with_counter(user_id, room, self.waiters.position(), |counter| counter.joined_at())
    }

    fn with_counter<T: Default>(
        &self,
        user_id: &UserId,
        room: &Room,
        to: Position,
        read: impl FnOnce(&Counter) -> T,
    ) -> Result<T, RoomError> {
        let slot = self.counters.lock().get_slot((user_id.to_owned(), room.nid));
        let mut slot = slot.lock();
        let is_current = slot.as_ref().is_some_and(|counter| self.is_current(counter, user_id, room.nid));
        if !is_current {
            let before = slot.as_ref().map_or(0, Counter::held);
            *slot = self.update(slot.take(), user_id, room, to)?;
            let after = slot.as_ref().map_or(0, Counter::held);
            self.make_room(before, after);
        }
        Ok(slot.as_ref().map(read).unwrap_or_default())
    }

    /// Whether nothing happened to the room or the user since the counter was brought up to date.
    fn is_current(&self, counter: &Counter, user_id: &UserId, room: RoomNid) -> bool {
        self.waiters.active_rooms([room], counter.counted_to()).is_empty()
            && self.waiters.user_activity(user_id, counter.counted_to()) == Activity::None
    }

    /// Forgets what was not asked for longest, if too much is held.
    fn make_room(&self, before: usize, after: usize) {
        let mut counters = self.counters.lock();
        counters.held = (counters.held + after).saturating_sub(before);
        while counters.held > HELD_MAX {
            let Some((_, slot)) = counters.slots.pop_lru() else { break };
            counters.note_forgotten(&slot);
        }
    }

    /// Brings a counter up to `to`; `None` if the user is not in the room.
    fn update(
        &self,
        counter: Option<Counter>,
        user_id: &UserId,
        room: &Room,
        to: Position,
    ) -> Result<Option<Counter>, RoomError> {
        let Some(member) = self.rooms.get_member(room.nid, user_id)? else { return Ok(None) };
        if member.value.membership != "join" {
            return Ok(None);
        }
        let counter = match counter {
            Some(counter) => Some(counter),
            None => self.rooms.store().get(&UNREAD, &(user_id.to_owned(), room.nid))?.map(Counter::from),
        };
        let joined_at = match &counter {
            Some(counter) if counter.member_at == member.position => counter.joined_at(),
            _ => self.find_joined_at(room, user_id, &member)?,
        };
        let ignored = self.account_data.get_ignored_users_stamped(user_id)?;
        let marks = self.get_read_marks(user_id, room.nid)?;
        // Another stay in the room, or other people ignored: from the start.
        let counter = counter.filter(|it| it.is_of(joined_at, ignored.position));
        let known = counter.as_ref().map(Counter::counts);
        let mut counter = counter.unwrap_or_else(|| Counter::begin(joined_at, ignored.position));
        counter.member_at = member.position;
        let looked_at = self.advance(&mut counter, user_id, room, to, marks, &ignored.value)?;
        let counts = counter.counts();
        if known.is_some_and(|known| known.main != counts.main || known.threads != counts.threads) {
            counter.set_changed_at(to);
        }
        counter.looked_at += looked_at;
        if counter.looked_at >= WRITE_AFTER {
            counter.looked_at = 0;
            self.write_down(user_id, room.nid, &counter);
        }
        Ok(Some(counter))
    }

    /// Takes in the events up to `to`, and takes away what has been read or redacted. Returns how many events were looked at.
    fn advance(
        &self,
        counter: &mut Counter,
        user_id: &UserId,
        room: &Room,
        to: Position,
        mut marks: ReadMarks,
        ignored: &HashSet<OwnedUserId>,
    ) -> Result<usize, RoomError> {
        let from = counter.counted_to().max(marks.all);
        let stretch = match from < to {
            true => self.look(user_id, room, (from, to), &mut marks, ignored)?,
            false => Stretch::default(),
        };
        if counter.held() > 0 {
            self.get_redacted(&stretch.redaction_targets)?.into_iter().for_each(|position| counter.forget(position));
        }
        stretch.found.into_iter().rev().for_each(|found| counter.add(found));
        counter.forget_read(&marks);
        counter.forget_surplus();
        counter.advance(to, &marks);
        Ok(stretch.looked_at)
    }

    /// Looks at a stretch of a timeline, from its end. What the user sent there marks its thread as read up to it.
    fn look(
        &self,
        user_id: &UserId,
        room: &Room,
        (from, to): (Position, Position),
        marks: &mut ReadMarks,
        ignored: &HashSet<OwnedUserId>,
    ) -> Result<Stretch, RoomError> {
        let mut stretch = Stretch::default();
        let rules = self.rules.get_ruleset(user_id)?;
        let mut judge = None;
        for row in self.rooms.with_events(self.rooms.scan_timeline(room.nid, from, to), READ_AT_ONCE) {
            if stretch.looked_at >= LOOKED_AT_MAX || stretch.found.len() >= UNREAD_MAX {
                break;
            }
            stretch.looked_at += 1;
            let (position, event) = row?;
            if event.pdu.kind == TimelineEventType::RoomRedaction {
                stretch.redaction_targets.extend(event.pdu.redaction_target(&room.rules).cloned());
            }
            if event.pdu.sender == user_id {
                if !event.pdu.is_state() {
                    marks.mark(get_thread(&self.rooms, &event)?, position);
                }
                continue;
            }
            if !event.pdu.is_state() && ignored.contains(&event.pdu.sender) {
                continue;
            }
            if is_silent(&rules, &event.pdu) {
                continue;
            }
            let Some(candidate) = self.candidates.get(&event)? else { continue };
            if position <= marks.read_to(candidate.thread.as_ref()) {
                continue;
            }
            let judge = match &mut judge {
                Some(judge) => judge,
                None => judge.insert(Judge::new(&self.rooms, room, user_id, rules.clone())?),
            };
            if let Some(verdict) = judge.judge(&candidate, &self.candidates)? {
                stretch.found.push(Found {
                    thread: candidate.thread.clone(),
                    position,
                    is_highlight: verdict.is_highlight,
                });
            }
        }
        Ok(stretch)
    }

    /// The places of those events that have been redacted.
    fn get_redacted(&self, targets: &[OwnedEventId]) -> Result<Vec<Position>, StoreError> {
        let mut redacted = Vec::new();
        for target in targets {
            let event = self.rooms.get_event(target)?.filter(|event| event.record.redacted_because.is_some());
            let order = event.map(|event| self.rooms.get_event_order(event.nid)).transpose()?.flatten();
            redacted.extend(order.map(live_position));
        }
        Ok(redacted)
    }

    fn get_read_marks(&self, user_id: &UserId, room: RoomNid) -> Result<ReadMarks, StoreError> {
        let mut marks = ReadMarks::default();
        for receipt in self.receipts.scan_own(room, user_id)? {
            // A receipt for an event that is still on its way counts once the event is here.
            let Ok(event_id) = EventId::parse(receipt.event_id.as_str()) else { continue };
            let Some(read_to) = self.get_position(&event_id)? else { continue };
            marks.newest = marks.newest.max(receipt.position);
            match receipt.thread_id.as_deref() {
                None => marks.all = marks.all.max(read_to),
                Some("main") => marks.mark(None, read_to),
                Some(root) => marks.mark(OwnedEventId::try_from(root).ok(), read_to),
            }
        }
        Ok(marks)
    }

    /// An event's place in the log; zero if it was fetched from before what came live.
    fn get_position(&self, event_id: &EventId) -> Result<Option<Position>, StoreError> {
        let Some(nid) = self.rooms.get_event_nid(event_id)? else { return Ok(None) };
        Ok(self.rooms.get_event_order(nid)?.map(live_position))
    }

    /// Where the user's present stay in the room began: profile changes since are passed over.
    fn find_joined_at(
        &self,
        room: &Room,
        user_id: &UserId,
        member: &Stamped<MemberRecord>,
    ) -> Result<Position, StoreError> {
        let Some(mut event) = member.value.event.map(|nid| self.rooms.get_event_by_nid(nid)).transpose()?.flatten()
        else {
            return Ok(Position::ZERO);
        };
        for _ in 0..PROFILE_CHANGES_MAX {
            match self.get_membership_before(room, user_id, &event)? {
                Some(before) if before.nid != event.nid => event = before,
                _ => break,
            }
        }
        Ok(self.rooms.get_event_order(event.nid)?.map_or(Position::ZERO, live_position))
    }

    /// The member event by which the user was joined already before this one.
    fn get_membership_before(
        &self,
        room: &Room,
        user_id: &UserId,
        event: &Event,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        let Some(root) = event.record.state_before else { return Ok(None) };
        let before = self.rooms.get_from_root(room.nid, root, &StateEventType::RoomMember, user_id.as_str())?;
        Ok(before.filter(|before| before.pdu.membership() == Some(MembershipState::Join)))
    }

    /// Nobody waits for it: what is lost is worked out again.
    fn write_down(&self, user_id: &UserId, room: RoomNid, counter: &Counter) {
        let mut batch = Batch::new();
        batch.put(&UNREAD, &(user_id.to_owned(), room), counter.record());
        if let Err(error) = self.rooms.store().enqueue(batch) {
            tracing::warn!(%error, "unread counts were not written down");
        }
    }
}

fn live_position(order: Order) -> Position {
    match order {
        Order::Live(position) => position,
        Order::Backfilled(_) => Position::ZERO,
    }
}

#[cfg(test)]
mod tests;
