//! GET and POST /_matrix/federation/v1/publicRooms
//!
//! Spec: Server-Server API, Public room directory.

use std::sync::Arc;

use axum::extract::State;
use chappe_services::directory::{Directory, PublicRooms, PublicRoomsQuery};
use ruma::{
    UInt,
    api::federation::directory::{get_public_rooms, get_public_rooms_filtered},
    directory::RoomNetwork,
};

use crate::{
    error::ApiError,
    extract::{RumaResponse, Signed},
};

pub async fn get(
    State(directory): State<Arc<Directory>>,
    Signed { body, .. }: Signed<get_public_rooms::v1::Request>,
) -> Result<RumaResponse<get_public_rooms::v1::Response>, ApiError> {
    let query = PublicRoomsQuery {
        limit: limit(body.limit),
        since: body.since,
        network: body.room_network,
        ..Default::default()
    };
    let PublicRooms { chunk, next_batch, prev_batch, total_room_count_estimate, .. } = find(directory, query).await?;
    let mut response = get_public_rooms::v1::Response::new();
    response.chunk = chunk;
    response.next_batch = next_batch;
    response.prev_batch = prev_batch;
    response.total_room_count_estimate = total_room_count_estimate;
    Ok(RumaResponse(response))
}

pub async fn post(
    State(directory): State<Arc<Directory>>,
    Signed { body, .. }: Signed<get_public_rooms_filtered::v1::Request>,
) -> Result<RumaResponse<get_public_rooms_filtered::v1::Response>, ApiError> {
    let network: RoomNetwork = body.room_network;
    let query = PublicRoomsQuery { limit: limit(body.limit), since: body.since, filter: body.filter, network };
    Ok(RumaResponse(find(directory, query).await?))
}

async fn find(directory: Arc<Directory>, query: PublicRoomsQuery) -> Result<PublicRooms, ApiError> {
    Ok(tokio::task::spawn_blocking(move || directory.get_federated_public_rooms(&query))
        .await
        .map_err(ApiError::internal)??)
}

fn limit(limit: Option<UInt>) -> Option<usize> {
    limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
