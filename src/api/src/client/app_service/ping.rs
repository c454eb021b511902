//! POST /_matrix/client/v1/appservice/{appserviceId}/ping (application service API, "Pinging").

use axum::extract::State;
use chappe_services::app_services::client::AppServices;
use ruma::api::client::appservice::request_ping::v1::{Request, Response};

use crate::{
    error::ApiError,
    extract::{AppService, Ruma, RumaResponse},
};

pub async fn handle(
    State(app_services): State<AppServices>,
    AppService(service): AppService,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let transaction_id = request.transaction_id.as_ref().map(|id| id.as_str());
    let duration = app_services.ping(&service, &request.appservice_id, transaction_id).await?;
    Ok(RumaResponse(Response::new(duration)))
}
