//! GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}[/{relType}[/{eventType}]] (client-server API, "Relationships API").

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    extract::{FromRequestParts, State},
};
use chappe_rooms::{
    Rooms,
    client_event::Viewer,
    relations::{Audience, RelationQuery},
    timeline::Token,
};
use chappe_services::{account_data::AccountData, accounts::Session};
use http::request::Parts;
use ruma::{
    OwnedEventId, OwnedRoomId, UInt,
    api::{
        Direction,
        client::relations::{
            get_relating_events, get_relating_events_with_rel_type, get_relating_events_with_rel_type_and_event_type,
        },
    },
};
use serde::Serialize;

use crate::{
    client::message::shown::{RawEvents, show_bundled},
    error::ApiError,
    extract::{Authenticated, Ruma},
};

const LIMIT_DEFAULT: usize = 5;

/// The longest page.
const LIMIT_MAX: usize = 100;

#[derive(Serialize)]
pub struct Relations {
    chunk: RawEvents,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recursion_depth: Option<u32>,
}

/// Whether relations of relations are asked for by the parameter's first name (MSC3981).
pub struct OldRecurse(bool);

impl<S: Send + Sync> FromRequestParts<S> for OldRecurse {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let mut parameters = url::form_urlencoded::parse(query);
        Ok(Self(parameters.any(|(name, value)| name == "org.matrix.msc3981.recurse" && value == "true")))
    }
}

/// The three forms of the request as one.
struct Asked {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    rel_type: Option<String>,
    event_type: Option<String>,
    from: Option<String>,
    to: Option<String>,
    dir: Direction,
    limit: Option<UInt>,
    recurse: bool,
}

pub async fn handle(
    State(rooms): State<Rooms>,
    State(account_data): State<Arc<AccountData>>,
    Authenticated(session): Authenticated,
    OldRecurse(old_recurse): OldRecurse,
    Ruma(request): Ruma<get_relating_events::v1::Request>,
) -> Result<Json<Relations>, ApiError> {
    let get_relating_events::v1::Request { room_id, event_id, from, to, dir, limit, recurse, .. } = request;
    let asked = Asked {
        room_id,
        event_id,
        rel_type: None,
        event_type: None,
        from,
        to,
        dir,
        limit,
        recurse: recurse || old_recurse,
    };
    answer(&rooms, &account_data, &session, asked)
}

pub async fn handle_with_rel_type(
    State(rooms): State<Rooms>,
    State(account_data): State<Arc<AccountData>>,
    Authenticated(session): Authenticated,
    OldRecurse(old_recurse): OldRecurse,
    Ruma(request): Ruma<get_relating_events_with_rel_type::v1::Request>,
) -> Result<Json<Relations>, ApiError> {
    let get_relating_events_with_rel_type::v1::Request {
        room_id,
        event_id,
        rel_type,
        from,
        to,
        dir,
        limit,
        recurse,
        ..
    } = request;
    let rel_type = Some(rel_type.to_string());
    let asked =
        Asked { room_id, event_id, rel_type, event_type: None, from, to, dir, limit, recurse: recurse || old_recurse };
    answer(&rooms, &account_data, &session, asked)
}

pub async fn handle_with_rel_type_and_event_type(
    State(rooms): State<Rooms>,
    State(account_data): State<Arc<AccountData>>,
    Authenticated(session): Authenticated,
    OldRecurse(old_recurse): OldRecurse,
    Ruma(request): Ruma<get_relating_events_with_rel_type_and_event_type::v1::Request>,
) -> Result<Json<Relations>, ApiError> {
    let get_relating_events_with_rel_type_and_event_type::v1::Request {
        room_id,
        event_id,
        rel_type,
        event_type,
        from,
        to,
        dir,
        limit,
        recurse,
        ..
    } = request;
    let (rel_type, event_type) = (Some(rel_type.to_string()), Some(event_type.to_string()));
    let asked =
        Asked { room_id, event_id, rel_type, event_type, from, to, dir, limit, recurse: recurse || old_recurse };
    answer(&rooms, &account_data, &session, asked)
}

fn answer(
    rooms: &Rooms,
    account_data: &AccountData,
    session: &Session,
    asked: Asked,
) -> Result<Json<Relations>, ApiError> {
    let room = rooms.get_room(&asked.room_id)?.ok_or_else(|| ApiError::not_found("Event not found"))?;
    let place_of = |token: &Option<String>| -> Result<_, ApiError> {
        Ok(match token {
            Some(token) => Some(rooms.get_place_of_token(room.nid, token.parse()?)?),
            None => None,
        })
    };
    let limit = asked.limit.map_or(LIMIT_DEFAULT, |limit| usize::try_from(limit).unwrap_or(LIMIT_MAX));
    let query = RelationQuery {
        target: &asked.event_id,
        rel_type: asked.rel_type.as_deref(),
        event_type: asked.event_type.as_deref(),
        from: place_of(&asked.from)?,
        to: place_of(&asked.to)?,
        direction: asked.dir,
        limit: limit.clamp(1, LIMIT_MAX),
        recurse: asked.recurse,
    };
    let ignored = account_data.get_ignored_users(&session.user_id)?;
    let viewer = Viewer::new(&session.user_id, Some(&session.device_id));
    let audience = Audience { viewer, ignored: &ignored };
    let page = rooms.get_relations(&room, audience, query)?;
    Ok(Json(Relations {
        chunk: show_bundled(rooms, audience, &page.events)?,
        next_batch: page.next.as_ref().map(Token::to_string),
        prev_batch: asked.from,
        recursion_depth: page.depth,
    }))
}
