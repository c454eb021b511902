//! GET /_matrix/client/v3/rooms/{roomId}/joined_members (client-server API, "Getting events for a room").

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Serialize;

use crate::{
    error::ApiError,
    extract::{Authenticated, PathParams},
};

#[derive(Serialize)]
pub struct JoinedMembers {
    joined: BTreeMap<OwnedUserId, Member>,
}

/// Both are there even if null: clients look for them.
#[derive(Serialize)]
struct Member {
    display_name: Option<String>,
    avatar_url: Option<String>,
}

pub async fn handle(
    State(rooms): State<Rooms>,
    Authenticated(session): Authenticated,
    PathParams(room_id): PathParams<OwnedRoomId>,
) -> Result<Json<JoinedMembers>, ApiError> {
    rooms.await_members(&room_id).await?;
    let (room, view) = rooms.require_state_view(&room_id, &session.user_id)?;
    if view.left_at.is_some() {
        return Err(ApiError::forbidden("You are not in this room"));
    }
    let mut joined = BTreeMap::new();
    for row in rooms.scan_members(room.nid) {
        let (user, member) = row?;
        if member.value.membership == "join" {
            joined
                .insert(user, Member { display_name: member.value.display_name, avatar_url: member.value.avatar_url });
        }
    }
    Ok(Json(JoinedMembers { joined }))
}
