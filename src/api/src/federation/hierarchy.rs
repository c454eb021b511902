//! GET /_matrix/federation/v1/hierarchy/{roomId}
//!
//! Spec: Server-Server API, Spaces.

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::spaces::{Hierarchy, Spaces};
use ruma::api::federation::space::get_hierarchy::v1::Request;

use crate::{error::ApiError, extract::Signed};

pub async fn hierarchy(
    State(spaces): State<Arc<Spaces>>,
    Signed { origin, body }: Signed<Request>,
) -> Result<Json<Hierarchy>, ApiError> {
    // Reads the state of every child.
    let read = tokio::task::spawn_blocking(move || spaces.answer(&origin, &body.room_id, body.suggested_only));
    let answer = read.await.map_err(ApiError::internal)??;
    answer.map(Json).ok_or_else(|| ApiError::not_found("Room not found"))
}
