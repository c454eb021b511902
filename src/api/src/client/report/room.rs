//! POST /_matrix/client/v3/rooms/{roomId}/report (client-server API, "Reporting Content").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::reports::Reports;
use ruma::api::client::room::report_room::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(reports): State<Arc<Reports>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    reports.report_room(&session.user_id, &request.room_id, request.reason).await?;
    Ok(RumaResponse(Response::new()))
}
