//! POST /_matrix/client/v3/account/3pid/add (client-server API, "Adding Account Administrative Contact Information").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{
    emails::{Emails, Purpose},
    uia::Uia,
};
use ruma::api::client::account::add_3pid::v3::{Request, Response};

use super::require_mail;
use crate::{
    error::ApiError,
    extract::{ClientAddress, Ruma, RumaResponse, User},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(emails): State<Arc<Emails>>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    require_mail(&emails)?;
    if request.auth.is_some() {
        limits.check_session(Limit::Authentication, &session)?;
    }
    let operation = format!("add third-party identifier {}", request.sid);
    uia.authorize_user(&session, &operation, request.auth.as_ref(), address).await?;
    let email = emails.check_proof(Purpose::AddAddress, request.sid.as_str(), request.client_secret.as_str())?;
    emails.add(&session.user_id, &email).await?;
    Ok(RumaResponse(Response::new()))
}
