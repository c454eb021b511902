//! GET /_matrix/client/v1/rooms/{roomId}/hierarchy (client-server API, "Discovering rooms within spaces").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::spaces::{HierarchyError, HierarchyQuery, SpaceRoom, Spaces};
use ruma::api::client::space::get_hierarchy::v1::Request;
use serde::Serialize;

use crate::{
    error::ApiError,
    extract::{Ruma, User},
};

#[derive(Serialize)]
pub struct Answer {
    rooms: Vec<SpaceRoom>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

pub async fn handle(
    State(spaces): State<Arc<Spaces>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Answer>, ApiError> {
    let limit = request.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if limit == Some(0) {
        return Err(ApiError::invalid_param("The limit must be greater than zero"));
    }
    let query = HierarchyQuery {
        from: request.from,
        limit,
        max_depth: request.max_depth.map(|depth| u32::try_from(depth).unwrap_or(u32::MAX)),
        suggested_only: request.suggested_only,
    };
    let page = spaces.get_hierarchy(&session.user_id, &request.room_id, &query).await?;
    Ok(Json(Answer { rooms: page.rooms, next_batch: page.next_batch }))
}

impl From<HierarchyError> for ApiError {
    fn from(error: HierarchyError) -> Self {
        match error {
            HierarchyError::UnknownToken | HierarchyError::ChangedQuery => Self::invalid_param(error.to_string()),
            HierarchyError::NotForUser => Self::forbidden(error.to_string()),
            HierarchyError::Rooms(error) => error.into(),
            HierarchyError::Read(error) => error.into(),
        }
    }
}
