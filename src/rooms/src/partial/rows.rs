//! The flat rows of a room whose members are about to become known: current state, members and servers, which follow from the
//! room's state.
//!
//! There is a row or two for each member, too much for one batch in a large room. So those that the whole state has and the partial one
//! lacks are written ahead, a piece at a time; what is left for the batch that ends the partial state is small. While a room has partial
//! state its rows may therefore have more than its state: what changes them looks at the rows ([`Staging::beside_rows`]), and what ends it makes
//! them the same again ([`Staging::level_rows`]). After a restart the rows that are there already are left as they are.
//!
//! Members of this server are not written ahead: they are told of what becomes of them, once it is certain.

use std::collections::BTreeMap;

use chappe_store::{
    Direction, EventNid, RoomNid, StateKeyNid, StoreError, Ticket,
    tables::{partial_rooms::PARTIAL_ROOMS, state::CURRENT_STATE},
};
use ruma::{RoomId, UserId, events::StateEventType};

use super::rejudge::Rejudged;
use crate::{
    Room, RoomError, Rooms, blocking,
    staging::Staging,
    state::{StateChange, StateRoot},
};

/// How many rows of state go into one batch, each with a row of membership: about 500 bytes together.
pub(crate) const PIECE_ROWS: usize = 500;

type Rows = Vec<(StateKeyNid, EventNid)>;

impl Rooms {
    /// The state after the join with which a room's partial state began, once that is known.
    pub(super) fn root_after_join(&self, room: RoomNid, judged: &Rejudged) -> Result<Option<StateRoot>, StoreError> {
        let Some(partial) = self.store.get(&PARTIAL_ROOMS, &room)? else { return Ok(None) };
        Ok(judged.events.get(&partial.value.join).and_then(|join| join.record.state_after))
    }

    /// Writes the rows of a whole state that a room with partial state lacks, in several batches.
    pub(super) async fn put_rows_ahead(&self, room: &Room, root: StateRoot) -> Result<(), RoomError> {
        let (rooms, nid) = (self.clone(), room.nid);
        let lacking = blocking(move || rooms.lacking_rows(nid, root)).await?;
        self.change_rows(room, lacking, Self::put_rows_piece).await
    }

    /// Deletes the rows that were written ahead, in several batches.
    pub(super) async fn take_rows_back(&self, room: &Room) -> Result<(), RoomError> {
        let (rooms, nid) = (self.clone(), room.nid);
        let ahead = blocking(move || Ok(rooms.scan_rows(nid)?.into_iter().collect())).await?;
        self.change_rows(room, ahead, Self::delete_rows_piece).await
    }

    async fn change_rows(
        &self,
        room: &Room,
        rows: Rows,
        change: fn(&Self, &RoomId, Rows) -> Result<Option<Ticket>, RoomError>,
    ) -> Result<(), RoomError> {
        for piece in rows.chunks(PIECE_ROWS) {
            let (rooms, room_id, piece) = (self.clone(), room.id.clone(), piece.to_vec());
            let writing = self.locks.write(&room.id).await;
            let ticket = blocking(move || change(&rooms, &room_id, piece)).await?;
            drop(writing);
            if let Some(ticket) = ticket {
                ticket.durable().await?;
            }
        }
        Ok(())
    }

    /// The entries of a state for which there is no row, but for members of this server.
    pub(crate) fn lacking_rows(&self, room: RoomNid, root: StateRoot) -> Result<Rows, RoomError> {
        let rows = self.scan_rows(room)?;
        let mut lacking = Vec::new();
        for (key, nid) in self.trees.entries(room, root)? {
            if rows.contains_key(&key) {
                continue;
            }
            let is_local = match self.store.interner().get_state_key_parts(&self.store, key)?.as_deref() {
                Some((StateEventType::RoomMember, user)) => UserId::parse(user).is_ok_and(|user| self.is_local(&user)),
                _ => false,
            };
            if !is_local {
                lacking.push((key, nid));
            }
        }
        Ok(lacking)
    }

    /// The caller holds the room's write lock.
    pub(crate) fn put_rows_piece(&self, room_id: &RoomId, rows: Rows) -> Result<Option<Ticket>, RoomError> {
        self.change_rows_piece(room_id, rows, |is_in_state, nid| (!is_in_state).then_some(Some(nid)))
    }

    fn delete_rows_piece(&self, room_id: &RoomId, rows: Rows) -> Result<Option<Ticket>, RoomError> {
        self.change_rows_piece(room_id, rows, |is_in_state, _| (!is_in_state).then_some(None))
    }

    fn change_rows_piece(
        &self,
        room_id: &RoomId,
        rows: Rows,
        change: impl Fn(bool, EventNid) -> Option<Option<EventNid>>,
    ) -> Result<Option<Ticket>, RoomError> {
        let mut staging = Staging::begin(self, self.require_room(room_id)?)?;
        if !staging.room.record.partial_state {
            return Ok(None);
        }
        let mut changes = Vec::new();
        for (key, nid) in rows {
            let is_in_state = staging.trees.get(staging.room.record.state, key)?.is_some();
            changes.extend(change(is_in_state, nid).map(|new| StateChange { key, old: None, new }));
        }
        if changes.is_empty() {
            return Ok(None);
        }
        staging.row_changes = Some(changes);
        staging.enqueue().map(Some)
    }

    fn scan_rows(&self, room: RoomNid) -> Result<BTreeMap<StateKeyNid, EventNid>, StoreError> {
        let rows = self.store.scan(&CURRENT_STATE, &(room,), Direction::Forward);
        rows.map(|row| row.map(|((_, key), nid)| (key, nid))).collect()
    }
}

impl Staging {
    /// Changes of state as changes of the rows that there are; without those that are as they should be.
    pub(crate) fn beside_rows(&self, changes: Vec<StateChange>) -> Result<Vec<StateChange>, StoreError> {
        let mut beside = Vec::with_capacity(changes.len());
        for StateChange { key, new, .. } in changes {
            let old = self.rooms.store.get(&CURRENT_STATE, &(self.nid(), key))?;
            if old != new {
                beside.push(StateChange { key, old, new });
            }
        }
        Ok(beside)
    }

    /// Has the rows become what the room's state is now.
    pub(super) fn level_rows(&mut self) -> Result<(), StoreError> {
        let mut rows = self.rooms.scan_rows(self.nid())?;
        let mut changes = Vec::new();
        for (key, nid) in self.trees.entries(self.room.record.state)? {
            let old = rows.remove(&key);
            if old != Some(nid) {
                changes.push(StateChange { key, old, new: Some(nid) });
            }
        }
        changes.extend(rows.into_iter().map(|(key, nid)| StateChange { key, old: Some(nid), new: None }));
        self.row_changes = Some(changes);
        Ok(())
    }
}
