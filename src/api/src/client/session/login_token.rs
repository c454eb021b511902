//! POST /_matrix/client/v1/login/get_token (client-server API, "Login").

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use chappe_services::accounts::Accounts;
use ruma::api::client::session::get_login_token::v1::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, StepUp},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    step_up: StepUp,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let session = step_up.authorize("get login token", request.auth.as_ref()).await?;
    let (login_token, lifetime_ms) = accounts.create_login_token(&session.user_id).await?;
    Ok(RumaResponse(Response::new(Duration::from_millis(lifetime_ms), login_token)))
}
