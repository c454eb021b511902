//! The room's history and state, for the servers in it:
//!
//! - GET /_matrix/federation/v1/event/{eventId}
//! - GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}
//! - GET /_matrix/federation/v1/state/{roomId}, .../state_ids/{roomId}
//! - GET /_matrix/federation/v1/backfill/{roomId}
//! - POST /_matrix/federation/v1/get_missing_events/{roomId}
//!
//! Spec: Server-Server API, Retrieving events; Backfilling and retrieving missing events.

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_protocol::clock::Clock;
use chappe_rooms::{RoomError, Rooms, remote::RawEvents};
use ruma::{
    UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    },
};
use serde::Serialize;

use super::told::{EventLists, NoFields, Told};
use crate::{error::ApiError, extract::Signed};

/// The form in which single events and pages of history are handed out.
#[derive(Serialize)]
pub struct Pdus {
    origin: String,
    origin_server_ts: u64,
    pdus: RawEvents,
}

#[derive(Serialize)]
pub struct AuthChain {
    auth_chain: RawEvents,
}

#[derive(Serialize)]
pub struct MissingEventsAnswer {
    events: RawEvents,
}

/// Reading whole states and auth chains is work for a blocking thread.
async fn read<T: Send + 'static>(work: impl FnOnce() -> Result<T, RoomError> + Send + 'static) -> Result<T, ApiError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)??)
}

pub async fn event(
    State(rooms): State<Rooms>,
    State(clock): State<Arc<dyn Clock>>,
    Signed { origin, body }: Signed<get_event::v1::Request>,
) -> Result<Json<Pdus>, ApiError> {
    let event = rooms.get_event_for_server(&origin, &body.event_id)?;
    Ok(Json(Pdus { origin: rooms.server_name().to_string(), origin_server_ts: clock.now_ms(), pdus: vec![event] }))
}

pub async fn event_auth(
    State(rooms): State<Rooms>,
    Signed { origin, body }: Signed<get_event_authorization::v1::Request>,
) -> Result<Json<AuthChain>, ApiError> {
    let auth_chain = read(move || rooms.get_event_auth(&origin, &body.room_id, &body.event_id)).await?;
    Ok(Json(AuthChain { auth_chain }))
}

pub async fn state(
    State(rooms): State<Rooms>,
    Signed { origin, body }: Signed<get_room_state::v1::Request>,
) -> Result<EventLists, ApiError> {
    let (state, chain) = read(move || rooms.get_state_for_server(&origin, &body.room_id, &body.event_id)).await?;
    EventLists::new(&NoFields {}, Told::Whole, vec![("pdus", state), ("auth_chain", chain)])
}

pub async fn state_ids(
    State(rooms): State<Rooms>,
    Signed { origin, body }: Signed<get_room_state_ids::v1::Request>,
) -> Result<EventLists, ApiError> {
    let (state, chain) = read(move || rooms.get_state_for_server(&origin, &body.room_id, &body.event_id)).await?;
    EventLists::new(&NoFields {}, Told::Ids, vec![("pdu_ids", state), ("auth_chain_ids", chain)])
}

pub async fn backfill(
    State(rooms): State<Rooms>,
    State(clock): State<Arc<dyn Clock>>,
    Signed { origin, body }: Signed<get_backfill::v1::Request>,
) -> Result<Json<Pdus>, ApiError> {
    let server_name = rooms.server_name().to_string();
    let pdus = read(move || rooms.get_backfill(&origin, &body.room_id, &body.v, to_u32(body.limit))).await?;
    Ok(Json(Pdus { origin: server_name, origin_server_ts: clock.now_ms(), pdus }))
}

pub async fn missing_events(
    State(rooms): State<Rooms>,
    Signed { origin, body }: Signed<get_missing_events::v1::Request>,
) -> Result<Json<MissingEventsAnswer>, ApiError> {
    let events = read(move || {
        let min_depth = body.min_depth.into();
        rooms.get_missing_events(
            &origin,
            &body.room_id,
            &body.earliest_events,
            &body.latest_events,
            to_u32(body.limit),
            min_depth,
        )
    })
    .await?;
    Ok(Json(MissingEventsAnswer { events }))
}

fn to_u32(number: UInt) -> u32 {
    u32::try_from(u64::from(number)).unwrap_or(u32::MAX)
}
