//! Turning what was read into the JSON that clients get.

use chappe_rooms::{Event, RoomError, client_event::Viewer, relations::Audience};
use ruma::api::client::filter::EventFormat;
use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{
    View,
    filter::keep_fields,
    response::{RawEvent, ShownEvent},
    timeline::Timeline,
};
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
    pub(super) fn show_event(&self, event: &Event, is_bundled: bool) -> Result<ShownEvent, RoomError> {
        let viewer = Viewer::new(&self.request.user_id, Some(&self.request.device_id)).remembering(&self.memberships);
        let rooms = &self.sources.rooms;
        let shown = match self.filter.format {
            EventFormat::Federation => {
                let pdu = rooms.pdu_for_user(event, viewer.user)?;
                ShownEvent::Text(pdu.to_federation_raw().map_err(|error| broken(event, &error))?)
            }
            _ if is_bundled => {
                let audience = Audience { viewer, ignored: self.ignored };
                ShownEvent::Event(Box::new(rooms.show_bundled(event, audience, false)?))
            }
            _ => ShownEvent::Event(Box::new(rooms.show(event, Some(viewer), false)?)),
        };
        let Some(paths) = &self.filter.fields else { return Ok(shown) };
        let whole = serde_json::to_value(shown).map_err(|error| broken(event, &error))?;
        let kept = to_raw_value(&keep_fields(&whole, paths)).map_err(|error| broken(event, &error))?;
        Ok(ShownEvent::Text(kept))
    }

    pub(super) fn show_events<'e>(
        &self,
        events: impl IntoIterator<Item = &'e Event>,
    ) -> Result<Vec<ShownEvent>, RoomError> {
        events.into_iter().map(|event| self.show_event(event, false)).collect()
    }

    pub(super) fn show_timeline_events(&self, timeline: &Timeline) -> Result<Vec<ShownEvent>, RoomError> {
        let is_bundled = timeline.limited || self.since.is_none();
        timeline.events.iter().map(|(_, event)| self.show_event(event, is_bundled)).collect()
    }
}

fn broken(event: &Event, error: &impl std::fmt::Display) -> RoomError {
    RoomError::Commit(chappe_store::CommitError::Invalid(format!("event {}: {error}", event.pdu.event_id)))
}
