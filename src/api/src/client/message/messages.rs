//! GET /_matrix/client/v3/rooms/{roomId}/messages (client-server API, "Getting events for a room").

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, RawQuery, State, rejection::QueryRejection},
};
use chappe_rooms::{
    Event, Room, Rooms,
    client_event::Viewer,
    paging::PageRequest,
    relations::Audience,
    state_view::StateView,
    timeline::{Place, Token, after},
};
use chappe_services::account_data::AccountData;
use ruma::{OwnedRoomId, UInt, api::Direction};
use serde::{Deserialize, Serialize};

use super::shown::{RawEvents, filter_of, members_at, senders, show, show_bundled};
use crate::{
    error::ApiError,
    extract::{Authenticated, PathParams},
};

/// The longest page.
const LIMIT_MAX: usize = 1_000;

/// The length of a page when the client does not say.
const LIMIT_DEFAULT: usize = 10;

/// The direction is required, but who may not look at the room learns only that.
#[derive(Deserialize)]
pub struct Parameters {
    from: Option<String>,
    to: Option<String>,
    dir: Option<Direction>,
    limit: Option<UInt>,
}

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
    State(account_data): State<Arc<AccountData>>,
    Authenticated(session): Authenticated,
    PathParams((room_id,)): PathParams<(OwnedRoomId,)>,
    RawQuery(query): RawQuery,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<Messages>, ApiError> {
    let (room, view) = rooms.require_state_view(&room_id, &session.user_id)?;
    let Query(parameters) = parameters.map_err(|error| ApiError::invalid_param(error.body_text()))?;
    let direction = parameters.dir.ok_or_else(|| ApiError::missing_param("The query must hold dir"))?;
    let from_token: Option<Token> = parameters.from.as_deref().map(str::parse).transpose()?;
    let from = match from_token {
        Some(token) => rooms.get_place_of_token(room.nid, token)?,
        None => start(&rooms, &room, view, direction)?,
    };
    let to: Option<Token> = parameters.to.as_deref().map(str::parse).transpose()?;
    let up_to = from_token.filter(|_| direction == Direction::Backward).and_then(Token::up_to);
    let limit = parameters.limit.map_or(LIMIT_DEFAULT, |limit| usize::try_from(limit).unwrap_or(LIMIT_MAX));
    let (filter, lazy_load) = filter_of(query.as_deref())?;
    let wanted = PageRequest { from, to, up_to, direction, limit: limit.clamp(1, LIMIT_MAX) };
    let admits_room = filter.admits_room(&room.id);
    let ignored = account_data.get_ignored_users(&session.user_id)?;
    let is_ignored = |event: &Event| !event.pdu.is_state() && ignored.contains(&event.pdu.sender);
    let admits = |event: &Event| Ok(admits_room && !is_ignored(event) && filter.admits_event(&rooms, event)?);
    let page = rooms.get_visible_page(&room, &session.user_id, wanted, admits).await?;

    let viewer = Viewer::new(&session.user_id, Some(&session.device_id));
    let events = || page.events.iter().map(|(_, event)| event);
    let state = match page.events.first() {
        Some((_, first)) if !lazy_load.is_disabled() => {
            show(&rooms, viewer, &members_at(&rooms, &room, first, &senders(events()))?)?
        }
        _ => Vec::new(),
    };
    Ok(Json(Messages {
        start: parameters.from.unwrap_or_else(|| after(from).to_string()),
        end: page.end.as_ref().map(Token::to_string),
        chunk: show_bundled(&rooms, Audience { viewer, ignored: &ignored }, events())?,
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
