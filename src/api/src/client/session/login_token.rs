//! POST /_matrix/client/v1/login/get_token (client-server API, "Login").

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use chappe_services::{accounts::Accounts, uia::Uia};
use ruma::api::client::session::get_login_token::v1::{Request, Response};

use crate::{
    error::ApiError,
    extract::{ClientAddress, Ruma, RumaResponse, User},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if request.auth.is_some() {
        limits.check_session(Limit::Authentication, &session)?;
    }
    uia.authorize_user(&session, "get login token", request.auth.as_ref(), address).await?;
    let (login_token, lifetime_ms) = accounts.create_login_token(&session.user_id).await?;
    Ok(RumaResponse(Response::new(Duration::from_millis(lifetime_ms), login_token)))
}
