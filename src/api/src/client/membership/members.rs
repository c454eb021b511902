//! GET /_matrix/client/v3/rooms/{roomId}/members (client-server API, "Getting events for a room").

use axum::{Json, extract::State};
use chappe_rooms::{
    RoomError, Rooms,
    client_event::{Memberships, Viewer},
    timeline::Token,
};
use ruma::{
    api::client::membership::get_member_events::v3::Request,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::Serialize;
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma},
};

#[derive(Serialize)]
pub struct Members {
    chunk: Vec<Box<RawJsonValue>>,
}

pub async fn handle(
    State(rooms): State<Rooms>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Members>, ApiError> {
    let at = request.at.as_deref().map(str::parse::<Token>).transpose()?;
    rooms.await_members(&request.room_id).await?;
    // A large room has as many members as some databases have rows.
    let read = tokio::task::spawn_blocking(move || -> Result<_, RoomError> {
        let (room, view) = rooms.require_state_view(&request.room_id, &session.user_id)?;
        let root = match (at, view.left_at) {
            // Who left does not see the members of later, whatever the token says.
            (Some(at), None) => rooms.get_root_at_token(room.nid, at)?,
            _ => Some(view.root),
        };
        let Some(root) = root else { return Ok(Vec::new()) };
        let memberships = Memberships::default();
        let viewer = Viewer::new(&session.user_id, Some(&session.device_id)).remembering(&memberships);
        let mut chunk = Vec::new();
        for event in rooms.get_root_events(room.nid, root)? {
            if event.pdu.kind == TimelineEventType::RoomMember && is_wanted(&request, event.pdu.membership().as_ref()) {
                chunk.push(rooms.to_client(&event, Some(viewer), true)?);
            }
        }
        Ok(chunk)
    });
    Ok(Json(Members { chunk: read.await.map_err(ApiError::internal)?? }))
}

/// Where both parameters are given, one that fits is enough.
fn is_wanted(request: &Request, membership: Option<&MembershipState>) -> bool {
    match (&request.membership, &request.not_membership) {
        (None, None) => true,
        (wanted, unwanted) => {
            wanted.as_ref().is_some_and(|wanted| membership == Some(wanted))
                || unwanted.as_ref().is_some_and(|unwanted| membership != Some(unwanted))
        }
    }
}
