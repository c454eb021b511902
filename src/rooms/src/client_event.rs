//! Events as clients see them, with what belongs into `unsigned`.
//!
//! Spec: Client-Server API, Room event format.

use std::sync::Arc;

use chappe_protocol::{
    client_format::{ClientEvent, ClientFormat, Unsigned},
    pdu::Pdu,
};
use ruma::{DeviceId, UserId};
use serde_json::value::{RawValue as RawJsonValue, to_raw_value};

use crate::{Event, RoomError, Rooms};

/// Who looks at an event.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    pub user: &'a UserId,
    /// The device, to which alone the transaction ids of its own events are shown.
    pub device: Option<&'a DeviceId>,
}

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
        if let (Some(viewer), Some(root)) = (viewer, event.record.state_after) {
            unsigned.membership = Some(self.membership_at(event.record.room, root, viewer.user)?);
        }
        Ok(unsigned)
    }
}
