//! POST /_matrix/client/v3/users/{userId}/report (client-server API, "Reporting Content").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::reports::Reports;
use ruma::api::client::reporting::report_user::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(reports): State<Arc<Reports>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    reports.report_user(&session.user_id, &request.user_id, request.reason).await?;
    Ok(RumaResponse(Response::new()))
}
