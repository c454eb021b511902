//! GET /_matrix/client/v3/rooms/{roomId}/context/{eventId} (client-server API, "Event Context").

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json,
    extract::{RawQuery, State},
};
use chappe_rooms::{
    Event, Room, RoomError, Rooms,
    client_event::Viewer,
    paging::{Page, PageRequest},
    relations::Audience,
    timeline::{Place, after, before, place_before},
};
use chappe_services::account_data::AccountData;
use ruma::{
    OwnedUserId,
    api::{Direction, client::context::get_context::v3::Request},
    events::TimelineEventType,
};
use serde::Serialize;
use serde_json::value::RawValue as RawJsonValue;

use super::shown::{RawEvents, filter_of, senders, show, show_bundled};
use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma},
};

/// The most events around the one asked for.
const LIMIT_MAX: usize = 100;

#[derive(Serialize)]
pub struct Context {
    start: String,
    end: String,
    event: Box<RawJsonValue>,
    events_before: RawEvents,
    events_after: RawEvents,
    state: RawEvents,
}

pub async fn handle(
    State(rooms): State<Rooms>,
    State(account_data): State<Arc<AccountData>>,
    Authenticated(session): Authenticated,
    RawQuery(query): RawQuery,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Context>, ApiError> {
    let not_found = || ApiError::not_found("Event not found");
    let room = rooms.get_room(&request.room_id)?.ok_or_else(not_found)?;
    let event = rooms.get_visible_event(&room, &session.user_id, &request.event_id)?.ok_or_else(not_found)?;
    let place = rooms.get_place(&event)?.ok_or_else(not_found)?;
    let limit = usize::try_from(request.limit).unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
    let (filter, lazy_load) = filter_of(query.as_deref())?;
    let is_lazy = !lazy_load.is_disabled();
    let ignored = account_data.get_ignored_users(&session.user_id)?;
    let is_ignored = |event: &Event| !event.pdu.is_state() && ignored.contains(&event.pdu.sender);
    let admits = |event: &Event| Ok(!is_ignored(event) && filter.admits_event(&rooms, event)?);
    let page = |from: Place, direction, limit| PageRequest { from, to: None, up_to: None, direction, limit };
    let user = &session.user_id;
    let older =
        rooms.get_visible_page(&room, user, page(place_before(place), Direction::Backward, limit / 2), admits).await?;
    let newer = rooms.get_visible_page(&room, user, page(place, Direction::Forward, limit - limit / 2), admits).await?;

    let events = || events_of(&older).chain([&event]).chain(events_of(&newer));
    let last = events_of(&newer).last().unwrap_or(&event);
    let state = state_at(&rooms, &room, last, is_lazy.then(|| senders(events())))?;
    let viewer = Viewer::new(user, Some(&session.device_id));
    let audience = Audience { viewer, ignored: &ignored };
    let start = older.events.last().map_or(before(place), |(place, _)| before(*place));
    let end = newer.events.last().map_or(after(place), |(place, _)| after(*place));
    Ok(Json(Context {
        start: start.to_string(),
        end: end.to_string(),
        event: rooms.to_client_bundled(&event, audience, true)?,
        events_before: show_bundled(&rooms, audience, events_of(&older))?,
        events_after: show_bundled(&rooms, audience, events_of(&newer))?,
        state: show(&rooms, viewer, &state)?,
    }))
}

fn events_of(page: &Page) -> impl Iterator<Item = &Arc<Event>> {
    page.events.iter().map(|(_, event)| event)
}

/// The state after an event; of the members, where loaded lazily, only those given.
fn state_at(
    rooms: &Rooms,
    room: &Room,
    event: &Event,
    members: Option<BTreeSet<OwnedUserId>>,
) -> Result<Vec<Arc<Event>>, RoomError> {
    let Some(root) = event.record.state_after else { return Ok(Vec::new()) };
    let mut state = rooms.get_root_events(room.nid, root)?;
    if let Some(members) = members {
        state.retain(|event| {
            let is_member = event.pdu.kind == TimelineEventType::RoomMember;
            !is_member || event.pdu.state_key().is_some_and(|user| members.iter().any(|member| member.as_str() == user))
        });
    }
    Ok(state)
}
