//! POST /_matrix/client/v3/account/3pid/add (client-server API, "Adding Account Administrative Contact Information").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::emails::{Emails, Purpose};
use ruma::api::client::account::add_3pid::v3::{Request, Response};

use super::require_mail;
use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, StepUp},
};

pub async fn handle(
    State(emails): State<Arc<Emails>>,
    step_up: StepUp,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    require_mail(&emails)?;
    let operation = format!("add third-party identifier {}", request.sid);
    let session = step_up.authorize(&operation, request.auth.as_ref()).await?;
    let email = emails.check_proof(Purpose::AddAddress, request.sid.as_str(), request.client_secret.as_str())?;
    emails.add(&session.user_id, &email).await?;
    Ok(RumaResponse(Response::new()))
}
