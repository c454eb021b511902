//! The end of the event log, kept in memory: those who follow the log read each of its rows once between them, and not once each.

use std::collections::VecDeque;

use chappe_store::{
    Direction, EventNid, Position, Store, StoreError, Table,
    tables::events::{BACKFILL_LOG, EVENT_LOG},
};
use parking_lot::Mutex;

use crate::Rooms;

/// How many rows are kept. Who is further behind reads from the store.
const ROWS_MAX: usize = 2_000;

/// A row of the log: an event and its place.
pub type LogRow = (Position, EventNid);

#[derive(Default)]
pub(crate) struct EndOfLog(Mutex<Option<Stretch>>);

impl EndOfLog {
    /// To be called when rows have been taken out of the log.
    pub(crate) fn forget(&self) {
        *self.0.lock() = None;
    }
}

/// All rows after a place, and up to another.
struct Stretch {
    after: Position,
    up_to: Position,
    rows: VecDeque<LogRow>,
}

impl Stretch {
    fn begin(place: Position) -> Self {
        Self { after: place, up_to: place, rows: VecDeque::new() }
    }

    /// Reads what has come since.
    fn extend(&mut self, store: &Store) -> Result<(), StoreError> {
        let durable = store.durable_position();
        if durable <= self.up_to {
            return Ok(());
        }
        let rows = scan(store, &EVENT_LOG, self.up_to, durable, ROWS_MAX)?;
        self.up_to = match rows.last() {
            Some((last, _)) if rows.len() == ROWS_MAX => *last,
            _ => durable,
        };
        self.rows.extend(rows);
        while self.rows.len() > ROWS_MAX {
            self.after = self.rows.pop_front().map_or(self.after, |(position, _)| position);
        }
        Ok(())
    }

    fn rows_after(&self, place: Position, limit: usize) -> Vec<LogRow> {
        let first = self.rows.partition_point(|(position, _)| *position <= place);
        self.rows.range(first..).take(limit).copied().collect()
    }
}

/// Rows of one of the logs after a place and up to another.
fn scan(
    store: &Store,
    log: &Table<Position, EventNid>,
    after: Position,
    up_to: Position,
    limit: usize,
) -> Result<Vec<LogRow>, StoreError> {
    store.scan_range(log, &after.next(), &up_to.next(), Direction::Forward).take(limit).collect()
}

impl Rooms {
    /// The rows of the event log after a place, at most `limit` of them and only durable ones.
    pub fn read_event_log(&self, after: Position, limit: usize) -> Result<Vec<LogRow>, StoreError> {
        let mut kept = self.end_of_log.0.lock();
        let stretch = kept.get_or_insert_with(|| Stretch::begin(self.store.durable_position()));
        stretch.extend(&self.store)?;
        if after >= stretch.after {
            return Ok(stretch.rows_after(after, limit));
        }
        drop(kept);
        scan(&self.store, &EVENT_LOG, after, self.store.durable_position(), limit)
    }

    /// The same of the events that were backfilled, in the order in which they came. Nothing of it is kept: few follow it.
    pub fn read_backfill_log(&self, after: Position, limit: usize) -> Result<Vec<LogRow>, StoreError> {
        scan(&self.store, &BACKFILL_LOG, after, self.store.durable_position(), limit)
    }
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;

    use super::*;
    use crate::tests::network::{Network, public_room, text, user};

    #[tokio::test]
    async fn whoever_asks_is_given_every_row_once_and_in_order() {
        let server = Network::new().add("one.example");
        let alice = user(&server, "alice");
        let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
        let begun = server.store.durable_position();
        assert_eq!(server.read_event_log(begun, 10).expect("read"), []);
        let from_start = || server.read_event_log(Position::ZERO, ROWS_MAX * 2).expect("read");
        let made_with_the_room = from_start();
        assert!(made_with_the_room.len() > 3, "what is older than what is kept comes from the store");

        let mut followers = [(begun, 1), (begun, 3), (begun, 100)].map(|(place, limit)| (place, limit, Vec::new()));
        for round in 0..4 {
            for number in 0..=round {
                server.send(&alice, &room_id, text(&number.to_string())).await.expect("send");
            }
            for (place, limit, seen) in &mut followers {
                let rows = server.read_event_log(*place, *limit).expect("read");
                assert!(rows.len() <= *limit);
                *place = rows.last().map_or(*place, |(position, _)| *position);
                seen.extend(rows);
            }
        }
        let all = from_start().split_off(made_with_the_room.len());
        assert_eq!(all.len(), 10);
        for (place, limit, mut seen) in followers {
            seen.extend(server.read_event_log(place, 100).expect("read"));
            assert_eq!(seen, all, "{limit} at a time");
        }
    }

    #[tokio::test]
    async fn of_many_rows_the_newest_are_kept_and_none_is_passed_over() {
        let server = Network::new().add("one.example");
        let alice = user(&server, "alice");
        let room_id = public_room(&server, &alice, RoomVersionId::V11).await;
        let begun = server.store.durable_position();
        assert_eq!(server.read_event_log(begun, 1).expect("read"), []);
        for number in 0..ROWS_MAX + 10 {
            server.send(&alice, &room_id, text(&number.to_string())).await.expect("send");
        }
        let (mut place, mut count) = (begun, 0);
        loop {
            let rows = server.read_event_log(place, 300).expect("read");
            let Some((last, _)) = rows.last() else { break };
            assert!(rows.is_sorted() && rows[0].0 > place);
            (place, count) = (*last, count + rows.len());
        }
        assert_eq!(count, ROWS_MAX + 10);
        assert!(server.read_event_log(begun, 1).expect("read")[0].0 > begun, "what is no longer kept is in the store");
    }
}
