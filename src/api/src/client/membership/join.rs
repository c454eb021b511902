//! POST /_matrix/client/v3/rooms/{roomId}/join (client-server API, "Joining rooms").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::{Rooms, membership::JoinContent};
use chappe_services::{accounts::Session, guests::Guests, profile::Profiles};
use http::StatusCode;
use ruma::{
    OwnedRoomId, OwnedServerName,
    api::{client::membership::join_room_by_id::v3::Response, error::ErrorCode},
};
use serde_json::value::RawValue as RawJsonValue;

use super::{
    target::{JoinBody, member_profile},
    via::Via,
};
use crate::{
    error::ApiError,
    extract::{Active, Authenticated, JsonBody, PathParams, RumaResponse},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    State(profiles): State<Arc<Profiles>>,
    State(limits): State<Arc<RateLimits>>,
    Active(Authenticated(session)): Active<Authenticated>,
    PathParams(room_id): PathParams<OwnedRoomId>,
    Via(via): Via,
    JsonBody(body): JsonBody<Box<RawJsonValue>>,
) -> Result<RumaResponse<Response>, ApiError> {
    join(&rooms, &profiles, &limits, &session, &room_id, &via, JoinBody::read(&body)?).await?;
    Ok(RumaResponse(Response::new(room_id)))
}

/// Joins the session's user to the room.
pub(super) async fn join(
    rooms: &Rooms,
    profiles: &Profiles,
    limits: &RateLimits,
    session: &Session,
    room_id: &OwnedRoomId,
    via: &[OwnedServerName],
    body: JoinBody,
) -> Result<(), ApiError> {
    let room = rooms.get_room(room_id)?;
    let is_local = match &room {
        Some(room) => rooms.is_server_joined(room.nid, rooms.server_name())?,
        None => false,
    };
    limits.check_session(if is_local { Limit::JoinLocal } else { Limit::JoinRemote }, session)?;
    if session.is_guest && !may_guests_join(rooms, room_id)? {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            ErrorCode::GuestAccessForbidden,
            "Guests may not join this room",
        ));
    }
    if let Some(signed) = &body.third_party_signed {
        rooms.accept_third_party_invite(&session.user_id, room_id, signed).await?;
    }
    let JoinBody { reason, extra, .. } = body;
    let content = JoinContent { profile: member_profile(profiles, &session.user_id)?, reason, extra };
    Ok(rooms.join_with(&session.user_id, room_id, via, &content).await?)
}

/// Guests join only rooms whose state this server knows and that let them in.
fn may_guests_join(rooms: &Rooms, room_id: &OwnedRoomId) -> Result<bool, ApiError> {
    let Some(room) = rooms.get_room(room_id)? else { return Ok(false) };
    Ok(Guests::may_join(rooms, room.nid)?)
}
