//! GET /_matrix/client/v3/user/{userId}/filter/{filterId} (client-server API, "Filtering").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::filters::Filters;
use ruma::api::client::filter::get_filter::v3::Request;

use crate::{
    error::ApiError,
    extract::{Authenticated, JsonText, Ruma},
};

pub async fn handle(
    State(filters): State<Arc<Filters>>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<JsonText, ApiError> {
    if request.user_id != session.user_id {
        return Err(ApiError::forbidden("Filters are for their own user only"));
    }
    let filter = filters.get_filter_json(&session.user_id, &request.filter_id)?;
    filter.map(JsonText).ok_or_else(|| ApiError::not_found("There is no such filter"))
}
