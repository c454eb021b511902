//! Events as clients see them, with what belongs into `unsigned`.
//!
//! Spec: Client-Server API, Room event format.

use std::sync::Arc;

use chappe_protocol::pdu::{ClientFormat, Pdu};
use ruma::{DeviceId, UserId};
use serde_json::{Map, Value, value::RawValue as RawJsonValue};

use crate::{Event, RoomError, Rooms};

/// Who looks at an event.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    pub user: &'a UserId,
    /// The device, to which alone the transaction ids of its own events are shown.
    pub device: Option<&'a DeviceId>,
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
        let format = self.client_format(event, viewer, with_room_id)?;
        let pdu = self.shown_pdu(event, viewer)?;
        pdu.to_client_raw(&format).map_err(|error| RoomError::broken(error.to_string()))
    }

    /// The event as it is shown: whole where no user looks at it.
    pub(crate) fn shown_pdu(&self, event: &Event, viewer: Option<Viewer<'_>>) -> Result<Arc<Pdu>, RoomError> {
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

    fn unsigned_of(&self, event: &Event, viewer: Option<Viewer<'_>>) -> Result<Map<String, Value>, RoomError> {
        let mut unsigned = Map::new();
        let sent_at: u64 = event.pdu.origin_server_ts.0.into();
        unsigned.insert("age".to_owned(), self.clock.now_ms().saturating_sub(sent_at).into());
        if let (Some(sent_by), Some(viewer)) = (&event.record.sent_by, viewer)
            && viewer.user == event.pdu.sender
            && viewer.device.is_some_and(|device| device.as_str() == sent_by.device_id)
        {
            unsigned.insert("transaction_id".to_owned(), sent_by.transaction_id.clone().into());
        }
        if let (Some((event_type, state_key)), Some(root)) = (event.pdu.state_tuple(), event.record.state_before)
            && let Some(replaced) = self.get_from_root(event.record.room, root, &event_type, state_key)?
        {
            unsigned.insert("replaces_state".to_owned(), replaced.pdu.event_id.as_str().into());
            unsigned.insert("prev_sender".to_owned(), replaced.pdu.sender.as_str().into());
            if let Ok(content) = self.shown_pdu(&replaced, viewer)?.get_content::<Value>() {
                unsigned.insert("prev_content".to_owned(), content);
            }
        }
        if let Some(redaction) = &event.record.redacted_because
            && let Some(redaction) = self.get_event(redaction)?
        {
            unsigned.insert("redacted_because".to_owned(), redaction.pdu.to_client_json(&ClientFormat::default()));
        }
        if let (Some(viewer), Some(root)) = (viewer, event.record.state_after) {
            let member = self.get_from_root(
                event.record.room,
                root,
                &ruma::events::StateEventType::RoomMember,
                viewer.user.as_str(),
            )?;
            let membership = member
                .and_then(|member| member.pdu.membership())
                .map_or_else(|| "leave".to_owned(), |membership| membership.to_string());
            unsigned.insert("membership".to_owned(), membership.into());
        }
        Ok(unsigned)
    }
}
