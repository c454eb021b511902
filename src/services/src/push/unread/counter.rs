//! What is known of one user and one room.

use chappe_store::{
    Position,
    tables::push::{UnreadRecord, UnreadThread},
};
use ruma::OwnedEventId;

use super::{Count, Found, ReadMarks, UNREAD_MAX, UnreadCounts};

#[derive(Clone, Default)]
pub(super) struct Counter {
    record: UnreadRecord,
    /// Where the user's member event last changed.
    pub(super) member_at: Position,
    /// How many events were looked at since this was written down.
    pub(super) looked_at: usize,
}

impl From<UnreadRecord> for Counter {
    fn from(record: UnreadRecord) -> Self {
        Self { record, ..Self::default() }
    }
}

impl Counter {
    /// For a user who joined at that place in the log, and ignores whom they ignore since that other one.
    pub(super) fn begin(joined_at: Position, ignored_at: Position) -> Self {
        let record = UnreadRecord {
            counted_to: joined_at.0,
            joined_at: joined_at.0,
            ignored_at: ignored_at.0,
            ..UnreadRecord::default()
        };
        Self::from(record)
    }

    /// Whether it is of this stay in the room, and leaves out those who are ignored now.
    pub(super) fn is_of(&self, joined_at: Position, ignored_at: Position) -> bool {
        (self.record.joined_at, self.record.ignored_at) == (joined_at.0, ignored_at.0)
    }

    pub(super) fn record(&self) -> &UnreadRecord {
        &self.record
    }

    pub(super) fn counted_to(&self) -> Position {
        Position(self.record.counted_to)
    }

    pub(super) fn joined_at(&self) -> Position {
        Position(self.record.joined_at)
    }

    pub(super) fn set_changed_at(&mut self, position: Position) {
        self.record.changed_at = position.0;
    }

    pub(super) fn counts(&self) -> UnreadCounts {
        let count = |thread: &UnreadThread| Count {
            notifications: thread.notified.len() as u64,
            highlights: thread.highlighted.len() as u64,
        };
        UnreadCounts {
            main: count(&self.record.main),
            threads: self.record.threads.iter().map(|(root, thread)| (root.clone(), count(thread))).collect(),
            changed_at: Position(self.record.changed_at),
        }
    }

    fn threads(&self) -> impl Iterator<Item = &UnreadThread> {
        std::iter::once(&self.record.main).chain(self.record.threads.values())
    }

    fn threads_mut(&mut self) -> impl Iterator<Item = (Option<&OwnedEventId>, &mut UnreadThread)> {
        let UnreadRecord { main, threads, .. } = &mut self.record;
        std::iter::once((None, main)).chain(threads.iter_mut().map(|(root, thread)| (Some(root), thread)))
    }

    /// How many places it holds.
    pub(super) fn held(&self) -> usize {
        self.threads().map(|thread| thread.notified.len() + thread.highlighted.len()).sum()
    }

    pub(super) fn contains(&self, position: Position) -> bool {
        self.threads().any(|thread| thread.notified.binary_search(&position.0).is_ok())
    }

    /// Adds an event that came after all others.
    pub(super) fn add(&mut self, found: Found) {
        let thread = self.record.thread_mut(found.thread);
        push(&mut thread.notified, found.position);
        if found.is_highlight {
            push(&mut thread.highlighted, found.position);
        }
    }

    /// Takes one event away.
    pub(super) fn forget(&mut self, position: Position) {
        for (_, thread) in self.threads_mut() {
            for places in [&mut thread.notified, &mut thread.highlighted] {
                if let Ok(at) = places.binary_search(&position.0) {
                    places.remove(at);
                }
            }
        }
        self.forget_empty_threads();
    }

    /// Takes away what has been read.
    pub(super) fn forget_read(&mut self, marks: &ReadMarks) {
        for (root, thread) in self.threads_mut() {
            forget_up_to(thread, marks.read_to(root));
        }
        self.forget_empty_threads();
    }

    /// Takes away the oldest of what is too much.
    pub(super) fn forget_surplus(&mut self) {
        let surplus = self.threads().map(|thread| thread.notified.len()).sum::<usize>().saturating_sub(UNREAD_MAX);
        let Some(last) = surplus.checked_sub(1) else { return };
        let mut places: Vec<_> = self.threads().flat_map(|thread| &thread.notified).copied().collect();
        let (_, last, _) = places.select_nth_unstable(last);
        let last = Position(*last);
        self.threads_mut().for_each(|(_, thread)| forget_up_to(thread, last));
        self.forget_empty_threads();
    }

    fn forget_empty_threads(&mut self) {
        self.record.threads.retain(|_, thread| !thread.notified.is_empty());
    }

    /// All that came up to `to` has been looked at.
    pub(super) fn advance(&mut self, to: Position, marks: &ReadMarks) {
        self.record.counted_to = self.record.counted_to.max(to.0);
        if self.record.changed_at == 0 {
            let newest = self.threads().filter_map(|thread| thread.notified.last()).max();
            self.record.changed_at = newest.copied().unwrap_or_default().max(marks.newest.0).max(self.record.joined_at);
        }
    }
}

/// There are many of these lists: they grow by a quarter, not to twice their size.
fn push(places: &mut Vec<u64>, place: Position) {
    if places.len() == places.capacity() {
        places.reserve_exact(places.len() / 4 + 4);
    }
    places.push(place.0);
}

fn forget_up_to(thread: &mut UnreadThread, read_to: Position) {
    for places in [&mut thread.notified, &mut thread.highlighted] {
        let read = places.partition_point(|place| *place <= read_to.0);
        places.drain(..read);
    }
}
