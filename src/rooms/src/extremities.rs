//! The ends of a room's graph: the events that the next one is to follow.

use std::collections::HashSet;

use chappe_store::{
    Direction, EventNid,
    tables::events::{EventStatus, NEXT_EVENTS},
};
use ruma::{OwnedEventId, RoomId};

use crate::{Event, RoomError, Rooms, blocking, staging::Staging};

impl Rooms {
    /// Where a gap has been filled, what came before it is no end of the room any more.
    pub(crate) async fn drop_superseded_extremities(&self, room_id: &RoomId) -> Result<(), RoomError> {
        let _writing = self.locks.write(room_id).await;
        let (rooms, room_id) = (self.clone(), room_id.to_owned());
        let drop_them = move || {
            let mut staging = Staging::begin(&rooms, rooms.require_room(&room_id)?)?;
            if staging.drop_superseded_extremities()? {
                let _nobody_waits_for_it = staging.enqueue()?;
            }
            Ok(())
        };
        blocking(drop_them).await
    }
}

impl Staging {
    /// Moves the forward extremities and, where the event is the only one left, the current state.
    ///
    /// An event that comes after one that builds on it (an old one, known as an outlier so far) is no end of the room.
    pub(crate) fn advance(&mut self, event: &Event, is_new: bool) {
        let extremities = &mut self.room.record.forward_extremities;
        extremities.retain(|(_, id, _)| !event.pdu.prev_events.contains(id));
        if !is_new {
            return;
        }
        extremities.push((event.nid, event.pdu.event_id.clone(), event.pdu.depth));
        if let ([_], Some(state)) = (extremities.as_slice(), event.record.state_after) {
            self.room.record.state = state;
        }
    }

    /// Whether an accepted event stands on this one, directly or on refused ones between them.
    pub(crate) fn is_superseded(&self, id: &OwnedEventId) -> Result<bool, RoomError> {
        let is_refused = |event: &Event| matches!(event.record.status, EventStatus::Rejected | EventStatus::SoftFailed);
        self.leads_to(id, Event::is_accepted, is_refused)
    }

    /// Takes out the extremities from which a way leads to another one. Answers whether there were any.
    fn drop_superseded_extremities(&mut self) -> Result<bool, RoomError> {
        let extremities = &self.room.record.forward_extremities;
        let ends: HashSet<EventNid> = extremities.iter().map(|(nid, _, _)| *nid).collect();
        let mut superseded = HashSet::new();
        for (nid, id, _) in extremities {
            if self.leads_to(id, |event| ends.contains(&event.nid), |_| true)? {
                superseded.insert(*nid);
            }
        }
        if superseded.is_empty() {
            return Ok(false);
        }
        self.room.record.forward_extremities.retain(|(nid, _, _)| !superseded.contains(nid));
        self.resolve_current_state()?;
        Ok(true)
    }

    /// Whether a way leads from an event onwards, over events that may be passed, to one that it ends at.
    fn leads_to(
        &self,
        id: &OwnedEventId,
        ends_at: impl Fn(&Event) -> bool,
        may_be_passed: impl Fn(&Event) -> bool,
    ) -> Result<bool, RoomError> {
        let (mut open, mut seen) = (vec![id.clone()], HashSet::new());
        while let Some(id) = open.pop() {
            for row in self.rooms.store.scan(&NEXT_EVENTS, &(id,), Direction::Forward) {
                let ((_, next), ()) = row?;
                let Some(event) = self.get_event_by_nid(next)? else { continue };
                if ends_at(&event) {
                    return Ok(true);
                }
                if may_be_passed(&event) && seen.insert(next) {
                    open.push(event.pdu.event_id.clone());
                }
            }
        }
        Ok(false)
    }
}
