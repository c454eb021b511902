//! GET /_matrix/client/v1/rooms/{roomId}/threads (client-server API, "Querying threads in a room").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::{
    Rooms,
    client_event::Viewer,
    relations::{Audience, ThreadQuery},
    timeline::Token,
};
use chappe_services::account_data::AccountData;
use ruma::api::client::threads::get_threads::v1::{IncludeThreads, Request};
use serde::Serialize;

use crate::{
    client::message::shown::{RawEvents, show_bundled},
    error::ApiError,
    extract::{Authenticated, Ruma},
};

const LIMIT_DEFAULT: usize = 10;

/// The longest page.
const LIMIT_MAX: usize = 100;

#[derive(Serialize)]
pub struct Threads {
    chunk: RawEvents,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

pub async fn handle(
    State(rooms): State<Rooms>,
    State(account_data): State<Arc<AccountData>>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Threads>, ApiError> {
    let participated = match request.include {
        IncludeThreads::All => false,
        IncludeThreads::Participated => true,
        _ => return Err(ApiError::invalid_param("include must be all or participated")),
    };
    let from = match &request.from {
        Some(token) => {
            // Who may not look at the room learns nothing from a token either.
            let (room, _) = rooms.require_state_view(&request.room_id, &session.user_id)?;
            Some(rooms.get_place_of_token(room.nid, token.parse()?)?)
        }
        None => None,
    };
    let limit = request.limit.map_or(LIMIT_DEFAULT, |limit| usize::try_from(limit).unwrap_or(LIMIT_MAX));
    let ignored = account_data.get_ignored_users(&session.user_id)?;
    let viewer = Viewer::new(&session.user_id, Some(&session.device_id));
    let audience = Audience { viewer, ignored: &ignored };
    let query = ThreadQuery { participated, from, limit: limit.clamp(1, LIMIT_MAX) };
    let page = rooms.get_threads(&request.room_id, audience, query)?;
    Ok(Json(Threads {
        chunk: show_bundled(&rooms, audience, &page.roots)?,
        next_batch: page.next.as_ref().map(Token::to_string),
    }))
}
