//! Turning what was read into the JSON that clients get.

use chappe_rooms::{Event, RoomError, client_event::Viewer, relations::Audience};
use ruma::api::client::filter::EventFormat;
use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{View, filter::keep_fields, response::RawEvent, timeline::Timeline};
use crate::account_data::AccountDataItem;

/// Serialises plain JSON, which cannot fail but for keys that are no strings.
pub(crate) fn raw(value: &impl Serialize) -> Option<RawEvent> {
    to_raw_value(value).ok()
}

pub(crate) fn account_data(item: &AccountDataItem) -> Option<RawEvent> {
    #[derive(Serialize)]
    struct Event<'a> {
        #[serde(rename = "type")]
        event_type: &'a str,
        content: Box<RawValue>,
    }
    let content = RawValue::from_string(item.content.clone()).ok()?;
    raw(&Event { event_type: &item.event_type, content })
}

pub(crate) fn ephemeral(event_type: &str, content: Value) -> Option<RawEvent> {
    raw(&json!({ "type": event_type, "content": content }))
}

impl View<'_> {
    /// An event of a room, in the format and with the fields that the client wants.
    ///
    /// With what relates to it, where the client cannot have seen all of that.
    pub(super) fn show_event(&self, event: &Event, is_bundled: bool) -> Result<RawEvent, RoomError> {
        let viewer = Viewer { user: &self.request.user_id, device: Some(&self.request.device_id) };
        let shown = match self.filter.format {
            EventFormat::Federation => {
                let pdu = self.sources.rooms.pdu_for_user(event, viewer.user)?;
                pdu.to_federation_raw().map_err(|error| broken(event, &error))?
            }
            _ if is_bundled => {
                let audience = Audience { viewer, ignored: self.ignored };
                self.sources.rooms.to_client_bundled(event, audience, false)?
            }
            _ => self.sources.rooms.to_client(event, Some(viewer), false)?,
        };
        let Some(paths) = &self.filter.fields else { return Ok(shown) };
        let whole: Value = serde_json::from_str(shown.get()).map_err(|error| broken(event, &error))?;
        to_raw_value(&keep_fields(&whole, paths)).map_err(|error| broken(event, &error))
    }

    pub(super) fn show_events<'e>(
        &self,
        events: impl IntoIterator<Item = &'e Event>,
    ) -> Result<Vec<RawEvent>, RoomError> {
        events.into_iter().map(|event| self.show_event(event, false)).collect()
    }

    pub(super) fn show_timeline_events(&self, timeline: &Timeline) -> Result<Vec<RawEvent>, RoomError> {
        let is_bundled = timeline.limited || self.since.is_none();
        timeline.events.iter().map(|(_, event)| self.show_event(event, is_bundled)).collect()
    }
}

fn broken(event: &Event, error: &impl std::fmt::Display) -> RoomError {
    RoomError::Commit(chappe_store::CommitError::Invalid(format!("event {}: {error}", event.pdu.event_id)))
}
