//! GET and POST /_matrix/client/v3/publicRooms (client-server API, "Published room directory").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use chappe_services::directory::{Directory, PublicRooms, PublicRoomsQuery};
use ruma::{
    OwnedServerName, UInt,
    api::client::directory::{get_public_rooms, get_public_rooms_filtered},
};

use crate::{
    error::ApiError,
    extract::{Authenticated, OptionalUser, Ruma},
};

/// Anyone may see this server's list; other servers are asked for users only.
pub async fn get(
    State(directory): State<Arc<Directory>>,
    State(rooms): State<Rooms>,
    OptionalUser(session): OptionalUser,
    Ruma(request): Ruma<get_public_rooms::v3::Request>,
) -> Result<Json<PublicRooms>, ApiError> {
    let remote = request.server.filter(|server| server != rooms.server_name());
    if session.is_none() && remote.is_some() {
        return Err(ApiError::missing_token());
    }
    let query = PublicRoomsQuery { limit: limit(request.limit), since: request.since, ..Default::default() };
    find(directory, remote, query).await
}

pub async fn post(
    State(directory): State<Arc<Directory>>,
    State(rooms): State<Rooms>,
    Authenticated(_): Authenticated,
    Ruma(request): Ruma<get_public_rooms_filtered::v3::Request>,
) -> Result<Json<PublicRooms>, ApiError> {
    let remote = request.server.filter(|server| server != rooms.server_name());
    let query = PublicRoomsQuery {
        limit: limit(request.limit),
        since: request.since,
        filter: request.filter,
        network: request.room_network,
    };
    find(directory, remote, query).await
}

async fn find(
    directory: Arc<Directory>,
    remote: Option<OwnedServerName>,
    query: PublicRoomsQuery,
) -> Result<Json<PublicRooms>, ApiError> {
    if let Some(server) = remote {
        return Ok(Json(directory.fetch_public_rooms(&server, &query).await?));
    }
    // Reads the state of every listed room.
    let read = tokio::task::spawn_blocking(move || directory.get_public_rooms(&query));
    Ok(Json(read.await.map_err(ApiError::internal)??))
}

fn limit(limit: Option<UInt>) -> Option<usize> {
    limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
