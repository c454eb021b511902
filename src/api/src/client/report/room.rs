//! POST /_matrix/client/v3/rooms/{roomId}/report (client-server API, "Reporting Content").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::reports::Reports;
use ruma::{OwnedRoomId, api::client::room::report_room::v3::Response};
use serde::Deserialize;

use crate::{
    error::ApiError,
    extract::{JsonBody, PathParams, RumaResponse, User},
};

/// Read here and not by ruma's type, which takes no reason for a blank one.
#[derive(Deserialize)]
pub struct Body {
    reason: String,
}

pub async fn handle(
    State(reports): State<Arc<Reports>>,
    User(session): User,
    PathParams(room_id): PathParams<OwnedRoomId>,
    JsonBody(body): JsonBody<Body>,
) -> Result<RumaResponse<Response>, ApiError> {
    reports.report_room(&session.user_id, &room_id, body.reason).await?;
    Ok(RumaResponse(Response::new()))
}
