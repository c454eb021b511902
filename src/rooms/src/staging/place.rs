//! Where an event stands among those of its room: timeline, topology, the logs, and the ends of the known history.

use chappe_store::{
    Batch, Order, Position, StoreError,
    tables::events::{
        BACKFILL_LOG, BACKFILLED, BACKWARD_EXTREMITIES, EVENT_LOG, EVENT_ORDERS, EventStatus, LATE_ARRIVALS,
        LateArrival, SENT_TIMES, TIMELINE, TOPOLOGY,
    },
};

use super::{Placement, Staging};
use crate::{Event, RoomError, timeline::Place};

impl Staging {
    /// Puts an event in timeline and topology.
    pub(crate) fn place(&mut self, event: &Event, placement: Placement) -> Result<(), RoomError> {
        let room = self.room.nid;
        let order = match placement {
            Placement::Live => {
                let position = self.batch.next_position();
                self.last_position = Some(position);
                self.batch.put(&TIMELINE, &(room, position), &event.nid);
                self.batch.put(&EVENT_LOG, &position, &event.nid);
                self.note_if_late((event.pdu.depth, Order::Live(position)), position)?;
                Order::Live(position)
            }
            _ => {
                let count = match self.backfilled {
                    Some(count) => count,
                    None => self.rooms.store.get(&BACKFILLED, &room)?.unwrap_or(0),
                } + 1;
                self.backfilled = Some(count);
                self.note_if_in_gap((event.pdu.depth, Order::Backfilled(count)))?;
                let position = self.batch.next_position();
                self.batch.put(&BACKFILL_LOG, &position, &event.nid);
                Order::Backfilled(count)
            }
        };
        self.batch.put(&TOPOLOGY, &(room, event.pdu.depth, order), &event.nid);
        put_sent_time(&mut self.batch, event, order);
        self.batch.put(&EVENT_ORDERS, &event.nid, &order);
        self.put_relations(event, order)
    }

    /// Notes a live event that comes after deeper ones.
    fn note_if_late(&mut self, place: Place, position: Position) -> Result<(), RoomError> {
        let deepest = self.deepest_live_place()?.unwrap_or(place);
        if deepest > place {
            self.batch.put(&LATE_ARRIVALS, &(self.room.nid, position), &LateArrival { place, deepest });
        }
        self.deepest = Some(Some(deepest.max(place)));
        Ok(())
    }

    /// Notes a backfilled event that is no history from before this server's time, but fills a gap.
    fn note_if_in_gap(&mut self, place: Place) -> Result<(), RoomError> {
        let first = self.rooms.get_first_place(self.room.nid)?;
        let deepest = self.deepest_live_place()?;
        if let (Some(first), Some(deepest)) = (first, deepest)
            && place > first
        {
            let position = self.batch.next_position();
            self.batch.put(&LATE_ARRIVALS, &(self.room.nid, position), &LateArrival { place, deepest });
        }
        Ok(())
    }

    fn deepest_live_place(&mut self) -> Result<Option<Place>, StoreError> {
        if let Some(deepest) = self.deepest {
            return Ok(deepest);
        }
        let known = self.rooms.heads.get(self.room.nid).and_then(|head| head.deepest);
        let deepest = match known {
            Some(place) if !self.has_unplaced => Some(place),
            _ => self.rooms.get_deepest_live_place(self.room.nid)?,
        };
        self.deepest = Some(deepest);
        Ok(deepest)
    }

    /// Keeps the graph's back edge: what history is missing before the event, which is missing itself no more.
    pub(super) fn note_missing_history(&mut self, event: &Event, is_new: bool) -> Result<(), RoomError> {
        let room = self.room.nid;
        if !is_new {
            let as_extremity = (room, event.pdu.event_id.clone());
            if self.missing.remove(&event.pdu.event_id)
                || self.rooms.store.contains(&BACKWARD_EXTREMITIES, &as_extremity)?
            {
                self.batch.delete(&BACKWARD_EXTREMITIES, &as_extremity);
            }
        }
        for prev in &event.pdu.prev_events {
            let known = self.get_event(prev)?;
            if known.is_none_or(|known| known.record.status == EventStatus::Outlier) {
                self.batch.put(&BACKWARD_EXTREMITIES, &(room, prev.clone()), &event.pdu.depth);
                self.missing.insert(prev.clone());
            }
        }
        Ok(())
    }
}

/// Puts an event among those of its room by the time it says it was sent at.
pub(crate) fn put_sent_time(batch: &mut Batch, event: &Event, order: Order) {
    let sent_at = event.pdu.origin_server_ts.get().into();
    batch.put(&SENT_TIMES, &(event.record.room, sent_at, event.pdu.depth, order), &event.nid);
}
