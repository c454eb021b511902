//! What of a room's state a user may look at: as it is for members, as it was when they left for those who did, and as it is for
//! everybody where the history is world readable.
//!
//! Spec: Client-Server API, Getting events for a room; Room history visibility.

use chappe_store::{Direction, Position, RoomNid, StoreError, tables::state::STATE_LOG};
use ruma::{
    UserId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};

use crate::{Room, RoomError, Rooms, state::StateRoot, timeline::Token};

/// The state that a user may look at.
#[derive(Clone, Copy, Debug)]
pub struct StateView {
    pub root: StateRoot,
    /// When the user left: what came later is none of the user's business.
    pub left_at: Option<Position>,
}

impl Rooms {
    /// The user's view of the room's state; `None` if the user may not see any.
    pub fn get_state_view(&self, room: &Room, user: &UserId) -> Result<Option<StateView>, StoreError> {
        let now = StateView { root: room.record.state, left_at: None };
        let Some(member) = self.get_member(room.nid, user)? else { return self.peek(room, now) };
        match member.value.membership.as_str() {
            "join" => Ok(Some(now)),
            "leave" | "ban" if !self.is_forgotten(user, room.nid)? => {
                // Only what ended a membership, not what declined an invite, leaves something to look at.
                let before = Position(member.position.0.saturating_sub(1));
                let was_joined = match self.get_state_root_at(room.nid, before)? {
                    Some(root) => self.membership_at(room.nid, root, user)? == MembershipState::Join,
                    None => false,
                };
                let root = if was_joined { self.get_state_root_at(room.nid, member.position)? } else { None };
                match root {
                    Some(root) => Ok(Some(StateView { root, left_at: Some(member.position) })),
                    None => self.peek(room, now),
                }
            }
            _ => self.peek(room, now),
        }
    }

    /// The room and the user's view of its state.
    ///
    /// # Errors
    /// Forbidden, also for rooms that are not known: nobody learns here which are.
    pub fn require_state_view(&self, room_id: &ruma::RoomId, user: &UserId) -> Result<(Room, StateView), RoomError> {
        let room = self.get_room(room_id)?.ok_or_else(RoomError::not_in_room)?;
        let view = self.get_state_view(&room, user)?.ok_or_else(RoomError::not_in_room)?;
        Ok((room, view))
    }

    fn peek(&self, room: &Room, now: StateView) -> Result<Option<StateView>, StoreError> {
        Ok((self.get_history_visibility(room.nid)? == HistoryVisibility::WorldReadable).then_some(now))
    }

    /// The state in force where a token stands. Before the first event that this server has of the room, that is the state with which
    /// it came to know the room: for one made here, the state at its creation.
    ///
    /// `None` if no state of the room is known.
    pub fn get_root_at_token(&self, room: RoomNid, token: Token) -> Result<Option<StateRoot>, StoreError> {
        match token {
            Token::Stream(position) => {
                // While not all members were known nobody was told them: those that became known then were there before.
                let resync =
                    self.get_resync(room)?.filter(|resync| resync.value <= position && position < resync.position);
                self.get_state_root_at(room, resync.map_or(position, |resync| resync.position))
            }
            Token::Topological { depth, order, .. } => {
                let page = self.get_page(room, (depth, order), Direction::Reverse, 1)?;
                match page.first() {
                    Some((_, event)) => Ok(event.record.state_after),
                    None => self.get_first_state_root(room),
                }
            }
        }
    }

    fn get_first_state_root(&self, room: RoomNid) -> Result<Option<StateRoot>, StoreError> {
        let first = self.store.scan(&STATE_LOG, &(room,), Direction::Forward).next().transpose()?;
        Ok(first.map(|(_, root)| root))
    }
}
