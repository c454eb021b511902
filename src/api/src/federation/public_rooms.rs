//! GET and POST /_matrix/federation/v1/publicRooms
//!
//! Spec: Server-Server API, Public room directory.

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::directory::{Directory, PublicRooms, PublicRoomsQuery};
use ruma::{
    UInt,
    api::federation::directory::{get_public_rooms, get_public_rooms_filtered},
    directory::RoomNetwork,
};

use crate::{error::ApiError, extract::Signed};

pub async fn get(
    State(directory): State<Arc<Directory>>,
    Signed { body, .. }: Signed<get_public_rooms::v1::Request>,
) -> Result<Json<PublicRooms>, ApiError> {
    let query = PublicRoomsQuery {
        limit: limit(body.limit),
        since: body.since,
        network: body.room_network,
        ..Default::default()
    };
    find(directory, query).await
}

pub async fn post(
    State(directory): State<Arc<Directory>>,
    Signed { body, .. }: Signed<get_public_rooms_filtered::v1::Request>,
) -> Result<Json<PublicRooms>, ApiError> {
    let network: RoomNetwork = body.room_network;
    let query = PublicRoomsQuery { limit: limit(body.limit), since: body.since, filter: body.filter, network };
    find(directory, query).await
}

async fn find(directory: Arc<Directory>, query: PublicRoomsQuery) -> Result<Json<PublicRooms>, ApiError> {
    let read = tokio::task::spawn_blocking(move || directory.get_federated_public_rooms(&query));
    Ok(Json(read.await.map_err(ApiError::internal)??))
}

fn limit(limit: Option<UInt>) -> Option<usize> {
    limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
