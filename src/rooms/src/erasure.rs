//! Erasure: what a user wrote who asked to be forgotten is shown redacted to whoever was not there to see it.
//!
//! No redaction is sent, and nothing stored changes: members of that time see what they saw. The state of rooms (names, topics, rules) is
//! not the user's own and stays whole, but for the user's member events.
//!
//! Spec: Client-Server API, Account deactivation (`erase`).

use std::sync::Arc;

use chappe_protocol::pdu::Pdu;
use chappe_store::{Position, RoomNid, StoreError, tables::accounts::ERASED_USERS};
use ruma::{ServerName, UserId, events::room::member::MembershipState};

use crate::{Event, RoomError, Rooms};

impl Rooms {
    /// Whether a user is shown an event only as it would be after a redaction.
    pub fn is_erased_for_user(&self, event: &Event, user: &UserId) -> Result<bool, StoreError> {
        let Some(erased_at) = self.get_erasure_of(event)? else { return Ok(false) };
        let room = event.record.room;
        let then = self.get_state_root_at(room, erased_at)?;
        for root in [event.record.state_before, event.record.state_after, then].into_iter().flatten() {
            if self.membership_at(room, root, user)? == MembershipState::Join {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a server is given an event only as it would be after a redaction.
    pub(crate) fn is_erased_for_server(&self, event: &Event, server: &ServerName) -> Result<bool, StoreError> {
        let Some(erased_at) = self.get_erasure_of(event)? else { return Ok(false) };
        let room = event.record.room;
        let then = self.get_state_root_at(room, erased_at)?;
        for root in [event.record.state_before, event.record.state_after, then].into_iter().flatten() {
            if self.had_members(room, root, server)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The event as a user is shown it.
    pub fn pdu_for_user(&self, event: &Event, user: &UserId) -> Result<Arc<Pdu>, RoomError> {
        if self.is_erased_for_user(event, user)? { self.redacted_pdu(event) } else { Ok(event.pdu.clone()) }
    }

    /// The event as a redaction would leave it.
    pub(crate) fn redacted_pdu(&self, event: &Event) -> Result<Arc<Pdu>, RoomError> {
        let room = self.get_room_by_nid(event.record.room)?;
        let room = room.ok_or_else(|| RoomError::broken(format!("event {} is in no room", event.pdu.event_id)))?;
        let redacted = event.pdu.redacted(&room.rules).map_err(|error| RoomError::broken(error.to_string()))?;
        Ok(Arc::new(redacted))
    }

    /// When the sender of an event asked to be forgotten, if that concerns this event.
    fn get_erasure_of(&self, event: &Event) -> Result<Option<Position>, StoreError> {
        let sender = &event.pdu.sender;
        let is_own = match event.pdu.state_key() {
            None => true,
            Some(state_key) => state_key == sender.as_str() && event.pdu.membership().is_some(),
        };
        // Of other servers' users nobody is told that they asked.
        if !is_own || sender.server_name() != self.server_name {
            return Ok(None);
        }
        Ok(self.store.get(&ERASED_USERS, sender)?.map(|erased| erased.position))
    }

    fn had_members(
        &self,
        room: RoomNid,
        root: crate::state::StateRoot,
        server: &ServerName,
    ) -> Result<bool, StoreError> {
        for member in self.scan_members(room) {
            let (user, _) = member?;
            if user.server_name() == server && self.membership_at(room, root, &user)? == MembershipState::Join {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
