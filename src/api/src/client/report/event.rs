//! POST /_matrix/client/v3/rooms/{roomId}/report/{eventId} (client-server API, "Reporting Content").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::reports::Reports;
use ruma::api::client::room::report_content::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(reports): State<Arc<Reports>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let reason = request.reason.unwrap_or_default();
    reports.report_event(&session.user_id, &request.room_id, &request.event_id, reason).await?;
    Ok(RumaResponse(Response::new()))
}
