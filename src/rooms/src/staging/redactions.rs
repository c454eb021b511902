//! Redactions, whichever comes first: the event or what redacts it.

use std::sync::Arc;

use chappe_store::{Direction, tables::events::PENDING_REDACTIONS};
use ruma::{EventId, UserId, events::StateEventType};

use super::Staging;
use crate::{Event, RoomError};

impl Staging {
    fn may_redact(&self, redaction: &Event, target: &Event) -> Result<bool, RoomError> {
        if target.record.room != self.room.nid {
            return Ok(false);
        }
        if !self.room.rules.authorization.special_case_room_redaction {
            let Some(root) = redaction.record.state_before else { return Ok(false) };
            let Some(levels) = self.get_power_levels(root)? else { return Ok(false) };
            return Ok(levels.can_redact(&redaction.pdu.sender, &target.pdu.sender));
        }
        // Versions 1 and 2 judge redactions in their authorization rules.
        Ok(true)
    }

    pub(super) fn apply_redaction(&mut self, redaction: &Event) -> Result<(), RoomError> {
        let Some(target_id) = redaction.pdu.redaction_target(&self.room.rules).cloned() else { return Ok(()) };
        let Some(target) = self.get_event(&target_id)? else {
            self.batch.put(&PENDING_REDACTIONS, &(target_id, redaction.nid), &());
            return Ok(());
        };
        if !self.may_redact(redaction, &target)? {
            return Ok(());
        }
        let mut redacted = (*target).clone();
        self.redact(&mut redacted, &redaction.pdu.event_id)?;
        self.write_rows(&redacted);
        let redacted = Arc::new(redacted);
        self.remember(&redacted);
        self.rewrite_member(&redacted)
    }

    pub(super) fn apply_pending_redaction(&mut self, event: &mut Event) -> Result<(), RoomError> {
        let pending: Vec<_> = self
            .rooms
            .store
            .scan(&PENDING_REDACTIONS, &(event.pdu.event_id.clone(),), Direction::Forward)
            .map(|row| row.map(|((_, redaction), ())| redaction))
            .collect::<Result<_, _>>()?;
        for nid in pending {
            if let Some(redaction) = self.get_event_by_nid(nid)?
                && self.may_redact(&redaction, event)?
            {
                self.redact(event, &redaction.pdu.event_id)?;
            }
            self.batch.delete(&PENDING_REDACTIONS, &(event.pdu.event_id.clone(), nid));
        }
        Ok(())
    }

    pub(super) fn redact(&mut self, event: &mut Event, because: &EventId) -> Result<(), RoomError> {
        if event.record.redacted_because.is_some() {
            return Ok(());
        }
        self.delete_relations(event)?;
        self.has_redacted_state |= event.pdu.is_state();
        event.record.redacted_because = Some(because.to_owned());
        let redacted = event
            .pdu
            .redacted(&self.room.rules)
            .map_err(|error| RoomError::broken(format!("redacting {}: {error}", event.pdu.event_id)))?;
        event.pdu = Arc::new(redacted);
        Ok(())
    }

    /// A member event that is in force was redacted: its name and picture go from the member rows too.
    fn rewrite_member(&mut self, event: &Event) -> Result<(), RoomError> {
        let Some((StateEventType::RoomMember, user)) = event.pdu.state_tuple() else { return Ok(()) };
        let Ok(user) = UserId::parse(user) else { return Ok(()) };
        let Some(mut stored) = self.rooms.get_member(self.room.nid, &user)? else { return Ok(()) };
        if stored.value.event == Some(event.nid) {
            stored.value.display_name = None;
            stored.value.avatar_url = None;
            self.put_member_rows(&user, &stored);
        }
        Ok(())
    }
}
