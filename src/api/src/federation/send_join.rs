//! PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}, and its version 1, which wraps the answer in `[200, ...]`.
//!
//! Spec: Server-Server API, Joining rooms.

use axum::{Json, extract::State};
use chappe_rooms::{Rooms, handshake::Admission, remote::Members};
use ruma::{OwnedServerName, api::federation::membership::create_join_event::v2::Request};
use serde::Serialize;
use serde_json::value::RawValue as RawJsonValue;

use crate::{error::ApiError, extract::Signed};

#[derive(Serialize)]
pub struct Answer {
    origin: OwnedServerName,
    members_omitted: bool,
    event: Box<RawJsonValue>,
    state: Vec<Box<RawJsonValue>>,
    auth_chain: Vec<Box<RawJsonValue>>,
    servers_in_room: Vec<OwnedServerName>,
}

pub async fn send_join(
    State(rooms): State<Rooms>,
    Signed { origin, body }: Signed<Request>,
) -> Result<Json<Answer>, ApiError> {
    let members = if body.omit_members { Members::Omitted } else { Members::All };
    let Admission { event, state, auth_chain, members_omitted, servers } =
        rooms.receive_join(&origin, &body.room_id, &body.event_id, &body.pdu, members).await?;
    Ok(Json(Answer {
        origin: rooms.server_name().to_owned(),
        members_omitted,
        event,
        state,
        auth_chain,
        servers_in_room: servers,
    }))
}

pub async fn send_join_v1(state: State<Rooms>, request: Signed<Request>) -> Result<Json<(u16, Answer)>, ApiError> {
    send_join(state, request).await.map(|Json(answer)| Json((200, answer)))
}
