//! Pages of events as clients are shown them, and the member events that go with them.

use std::{collections::BTreeSet, sync::Arc};

use chappe_rooms::{Event, Room, RoomError, Rooms, client_event::Viewer, relations::Audience};
use chappe_services::sync::filter::EventFilter;
use ruma::{OwnedUserId, api::client::filter::LazyLoadOptions, events::StateEventType};
use serde_json::value::RawValue as RawJsonValue;

use crate::error::ApiError;

pub(crate) type RawEvents = Vec<Box<RawJsonValue>>;

/// The filter in the query `filter=`; read from its text, since it has fields of later proposals.
pub(super) fn filter_of(query: Option<&str>) -> Result<(EventFilter, LazyLoadOptions), ApiError> {
    let mut pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let Some((_, json)) = pairs.find(|(name, _)| name == "filter") else { return Ok(Default::default()) };
    EventFilter::parse(&json).map_err(|_| ApiError::invalid_param("The filter is malformed"))
}

pub(super) fn show<'e>(
    rooms: &Rooms,
    viewer: Viewer<'_>,
    events: impl IntoIterator<Item = &'e Arc<Event>>,
) -> Result<RawEvents, RoomError> {
    events.into_iter().map(|event| rooms.to_client(event, Some(viewer), true)).collect()
}

/// As [`show`], with what relates to the events summed up.
pub(crate) fn show_bundled<'e>(
    rooms: &Rooms,
    audience: Audience<'_>,
    events: impl IntoIterator<Item = &'e Arc<Event>>,
) -> Result<RawEvents, RoomError> {
    events.into_iter().map(|event| rooms.to_client_bundled(event, audience, true)).collect()
}

/// The senders of these events.
pub(super) fn senders<'e>(events: impl IntoIterator<Item = &'e Arc<Event>>) -> BTreeSet<OwnedUserId> {
    events.into_iter().map(|event| event.pdu.sender.clone()).collect()
}

/// The member events of these users in the state after an event.
pub(super) fn members_at(
    rooms: &Rooms,
    room: &Room,
    event: &Event,
    users: &BTreeSet<OwnedUserId>,
) -> Result<Vec<Arc<Event>>, RoomError> {
    let Some(root) = event.record.state_after else { return Ok(Vec::new()) };
    let mut members = Vec::new();
    for user in users {
        members.extend(rooms.get_from_root(room.nid, root, &StateEventType::RoomMember, user.as_str())?);
    }
    Ok(members)
}
