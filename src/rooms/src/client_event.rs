//! Events as clients see them, with what belongs into `unsigned`.
//!
//! Spec: Client-Server API, Room event format.

use std::{collections::HashMap, sync::Arc};

use chappe_protocol::{
    client_format::{ClientEvent, ClientFormat, Unsigned},
    pdu::Pdu,
};
use chappe_store::StoreError;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use ruma::{
    DeviceId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde_json::value::{RawValue as RawJsonValue, to_raw_value};

use crate::{Event, RoomError, Rooms, state::StateRoot};

/// Who looks at an event.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    pub user: &'a UserId,
    /// The device, to which alone the transaction ids of its own events are shown.
    pub device: Option<&'a DeviceId>,
    memberships: Option<&'a Memberships>,
}

impl<'a> Viewer<'a> {
    pub fn new(user: &'a UserId, device: Option<&'a DeviceId>) -> Self {
        Self { user, device, memberships: None }
    }

    /// As this one, for whoever shows the same user many events: what membership the user had at one of them tells of others.
    pub fn remembering(self, memberships: &'a Memberships) -> Self {
        Self { memberships: Some(memberships), ..self }
    }
}

/// What membership one user has in states of rooms.
#[derive(Debug, Default)]
pub struct Memberships(Mutex<HashMap<StateRoot, MembershipState, RandomState>>);

pub(crate) fn to_raw(event: &ClientEvent) -> Result<Box<RawJsonValue>, RoomError> {
    to_raw_value(event).map_err(|error| RoomError::broken(error.to_string()))
}

impl Rooms {
    /// An event in client format, as raw JSON.
    ///
    /// `/sync` leaves out the room id, which it gives by the place of the event.
    pub fn to_client(
        &self,
        event: &Event,
        viewer: Option<Viewer<'_>>,
        with_room_id: bool,
    ) -> Result<Box<RawJsonValue>, RoomError> {
        to_raw(&self.show(event, viewer, with_room_id)?)
    }

    /// An event in client format, to be put into an answer.
    pub fn show(
        &self,
        event: &Event,
        viewer: Option<Viewer<'_>>,
        with_room_id: bool,
    ) -> Result<ClientEvent, RoomError> {
        let format = self.client_format(event, viewer, with_room_id)?;
        self.show_as(event, viewer, format)
    }

    /// An event in a client format that has been found out.
    pub(crate) fn show_as(
        &self,
        event: &Event,
        viewer: Option<Viewer<'_>>,
        format: ClientFormat,
    ) -> Result<ClientEvent, RoomError> {
        ClientEvent::new(self.shown_pdu(event, viewer)?, format).map_err(|error| RoomError::broken(error.to_string()))
    }

    /// The event as it is shown: whole where no user looks at it.
    fn shown_pdu(&self, event: &Event, viewer: Option<Viewer<'_>>) -> Result<Arc<Pdu>, RoomError> {
        viewer.map_or_else(|| Ok(event.pdu.clone()), |viewer| self.pdu_for_user(event, viewer.user))
    }

    pub(crate) fn client_format(
        &self,
        event: &Event,
        viewer: Option<Viewer<'_>>,
        with_room_id: bool,
    ) -> Result<ClientFormat, RoomError> {
        Ok(ClientFormat { omit_room_id: !with_room_id, unsigned: Some(self.unsigned_of(event, viewer)?) })
    }

    fn unsigned_of(&self, event: &Event, viewer: Option<Viewer<'_>>) -> Result<Unsigned, RoomError> {
        let sent_at: u64 = event.pdu.origin_server_ts.0.into();
        let mut unsigned = Unsigned { age: Some(self.clock.now_ms().saturating_sub(sent_at)), ..Unsigned::default() };
        if let (Some(sent_by), Some(viewer)) = (&event.record.sent_by, viewer)
            && viewer.user == event.pdu.sender
            && viewer.device.is_some_and(|device| device.as_str() == sent_by.device_id)
        {
            unsigned.transaction_id = Some(sent_by.transaction_id.clone());
        }
        if let (Some((event_type, state_key)), Some(root)) = (event.pdu.state_tuple(), event.record.state_before)
            && let Some(replaced) = self.get_from_root(event.record.room, root, &event_type, state_key)?
        {
            unsigned.replaces_state = Some(replaced.pdu.event_id.clone());
            unsigned.prev_sender = Some(replaced.pdu.sender.clone());
            unsigned.prev_content = Some(self.shown_pdu(&replaced, viewer)?.content().to_owned());
        }
        if let Some(redaction) = &event.record.redacted_because
            && let Some(redaction) = self.get_event(redaction)?
        {
            unsigned.redacted_because = redaction.pdu.to_client_raw(&ClientFormat::default()).ok();
        }
        if let Some(viewer) = viewer {
            unsigned.membership = self.membership_after(event, viewer)?;
        }
        Ok(unsigned)
    }

    /// The viewer's membership in the state after an event, if that state is known.
    fn membership_after(&self, event: &Event, viewer: Viewer<'_>) -> Result<Option<MembershipState>, StoreError> {
        let Some(after) = event.record.state_after else { return Ok(None) };
        let read = || self.membership_at(event.record.room, after, viewer.user);
        let Some(memberships) = viewer.memberships else { return read().map(Some) };
        let mut known = memberships.0.lock();
        // Before an event it was the same, unless it is this event that changed it.
        let is_change = event.pdu.is_state_event(&TimelineEventType::RoomMember, viewer.user.as_str());
        let before = event.record.state_before.filter(|_| !is_change);
        let membership = match known.get(&after).or_else(|| known.get(&before?)) {
            Some(membership) => membership.clone(),
            None => read()?,
        };
        for root in before.into_iter().chain([after]) {
            known.insert(root, membership.clone());
        }
        Ok(Some(membership))
    }
}
