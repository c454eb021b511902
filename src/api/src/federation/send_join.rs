//! PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}, and its version 1, which wraps the answer in `[200, ...]`.
//!
//! Spec: Server-Server API, Joining rooms.

use axum::extract::State;
use chappe_rooms::{Rooms, handshake::Admission, remote::Members};
use ruma::{OwnedServerName, api::federation::membership::create_join_event::v2::Request};
use serde::Serialize;
use serde_json::value::RawValue as RawJsonValue;

use super::told::{EventLists, Told};
use crate::{error::ApiError, extract::Signed};

/// The answer beside the state and its auth chain.
#[derive(Serialize)]
struct Answer<'a> {
    origin: &'a str,
    members_omitted: bool,
    event: &'a RawJsonValue,
    servers_in_room: &'a [OwnedServerName],
}

pub async fn send_join(
    State(rooms): State<Rooms>,
    Signed { origin, body }: Signed<Request>,
) -> Result<EventLists, ApiError> {
    let members = if body.omit_members { Members::Omitted } else { Members::All };
    let Admission { event, state, auth_chain, members_omitted, servers } =
        rooms.receive_join(&origin, &body.room_id, &body.event_id, &body.pdu, members).await?;
    let answer =
        Answer { origin: rooms.server_name().as_str(), members_omitted, event: &event, servers_in_room: &servers };
    EventLists::new(&answer, Told::Whole, vec![("state", state), ("auth_chain", auth_chain)])
}

pub async fn send_join_v1(state: State<Rooms>, request: Signed<Request>) -> Result<EventLists, ApiError> {
    send_join(state, request).await.map(EventLists::after_status)
}
