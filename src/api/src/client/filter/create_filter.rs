//! POST /_matrix/client/v3/user/{userId}/filter (client-server API, "Filtering").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::filters::Filters;
use ruma::{OwnedUserId, api::client::filter::create_filter::v3::Response};
use serde_json::value::RawValue;

use crate::{
    error::ApiError,
    extract::{Authenticated, JsonBody, PathParams, RumaResponse},
};

pub async fn handle(
    State(filters): State<Arc<Filters>>,
    Authenticated(session): Authenticated,
    PathParams(user_id): PathParams<OwnedUserId>,
    JsonBody(filter): JsonBody<Box<RawValue>>,
) -> Result<RumaResponse<Response>, ApiError> {
    if user_id != session.user_id {
        return Err(ApiError::forbidden("Filters are for their own user only"));
    }
    let filter_id = filters.create_filter(&session.user_id, &filter).await?;
    Ok(RumaResponse(Response::new(filter_id)))
}
