//! What a server that was away for long is sent of a room in place of every event: the newest ones. What came before them it fetches,
//! as it needs it.

use chappe_store::{
    Direction, EventNid, Order, Position, RoomNid, StoreError,
    tables::events::{EVENT_ORDERS, TIMELINE},
};
use ruma::ServerName;

use crate::Rooms;

/// How many forward extremities one room is caught up with.
const EXTREMITIES_MAX: usize = 10;
/// How many events are looked at for the newest of our own.
const EVENTS_LOOKED_AT_MAX: usize = 1_000;

impl Rooms {
    /// The events of a room that bring `server` up to date, if nothing of the room was queued for it after `since`: the newest event
    /// of this server's users, and the room's forward extremities. Empty if nothing happened since.
    ///
    /// Whoever decided before this call not to queue an event has stored it when this returns.
    pub async fn get_newest_for(
        &self,
        server: &ServerName,
        room: RoomNid,
        since: Position,
    ) -> Result<Vec<EventNid>, StoreError> {
        let Some(room_id) = self.get_room_id(room)? else { return Ok(Vec::new()) };
        // Events are put together under the write lock.
        drop(self.locks.write(&room_id).await);
        let Some(room) = self.get_room_by_nid(room)? else { return Ok(Vec::new()) };
        let mut newest = Vec::new();
        let rows =
            self.store.scan_range(&TIMELINE, &(room.nid, since.next()), &(room.nid, Position::MAX), Direction::Reverse);
        for row in rows.take(EVENTS_LOOKED_AT_MAX) {
            let (_, nid) = row?;
            if self.get_event_by_nid(nid)?.is_some_and(|event| self.is_local(&event.pdu.sender)) {
                newest.push(nid);
                break;
            }
        }
        for (nid, _, _) in room.record.forward_extremities.iter().take(EXTREMITIES_MAX) {
            let is_later = matches!(self.store.get(&EVENT_ORDERS, nid)?, Some(Order::Live(at)) if at > since);
            let is_theirs = self.get_event_by_nid(*nid)?.is_none_or(|event| event.pdu.sender.server_name() == server);
            if is_later && !is_theirs && !newest.contains(nid) {
                newest.push(*nid);
            }
        }
        Ok(newest)
    }
}
