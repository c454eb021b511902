//! GET /_matrix/client/v3/rooms/{roomId}/messages (client-server API, "Getting events for a room").

use axum::{Json, extract::State};
use chappe_rooms::{
    Room, Rooms,
    client_event::Viewer,
    paging::PageRequest,
    state_view::StateView,
    timeline::{Place, Token, after},
};
use chappe_services::sync::filter::EventFilter;
use ruma::api::{Direction, client::message::get_message_events::v3::Request};
use serde::Serialize;

use super::shown::{RawEvents, members_at, senders, show};
use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma},
};

/// The longest page.
const LIMIT_MAX: usize = 1_000;

#[derive(Serialize)]
pub struct Messages {
    start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    chunk: RawEvents,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    state: RawEvents,
}

pub async fn handle(
    State(rooms): State<Rooms>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Messages>, ApiError> {
    let (room, view) = rooms.require_state_view(&request.room_id, &session.user_id)?;
    let from = match &request.from {
        Some(token) => rooms.get_place_of_token(room.nid, token.parse()?)?,
        None => start(&rooms, &room, view, request.dir)?,
    };
    let to = match &request.to {
        Some(token) => Some(rooms.get_place_of_token(room.nid, token.parse()?)?),
        None => None,
    };
    let limit = usize::try_from(request.limit).unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX);
    let is_lazy = !request.filter.lazy_load_options.is_disabled();
    let filter = EventFilter::from(request.filter);
    let wanted = PageRequest { from, to, direction: request.dir, limit };
    let admits_room = filter.admits_room(&room.id);
    let page = rooms
        .get_visible_page(&room, &session.user_id, wanted, |event| admits_room && filter.admits(&event.pdu))
        .await?;

    let viewer = Viewer { user: &session.user_id, device: Some(&session.device_id) };
    let events = || page.events.iter().map(|(_, event)| event);
    let state = match page.events.first() {
        Some((_, first)) if is_lazy => show(&rooms, viewer, &members_at(&rooms, &room, first, &senders(events()))?)?,
        _ => Vec::new(),
    };
    Ok(Json(Messages {
        start: request.from.unwrap_or_else(|| after(from).to_string()),
        end: page.end.as_ref().map(Token::to_string),
        chunk: show(&rooms, viewer, events())?,
        state,
    }))
}

/// Where paging begins without a token: at the room's start, at its end, or where the user left it.
fn start(rooms: &Rooms, room: &Room, view: StateView, direction: Direction) -> Result<Place, ApiError> {
    Ok(match (direction, view.left_at) {
        (Direction::Forward, _) => rooms.start_of_room(),
        (Direction::Backward, Some(left_at)) => rooms.get_place_of_token(room.nid, Token::Stream(left_at))?,
        (Direction::Backward, None) => rooms.get_end_of_room(room.nid)?,
    })
}
