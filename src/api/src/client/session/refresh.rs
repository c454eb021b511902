//! POST /_matrix/client/v3/refresh (client-server API, "Refreshing access tokens").

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use chappe_services::accounts::Accounts;
use ruma::api::client::session::refresh_token::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let tokens = accounts.refresh(&request.refresh_token).await?;
    let mut response = Response::new(tokens.access);
    response.refresh_token = tokens.refresh;
    response.expires_in_ms = tokens.expires_in_ms.map(Duration::from_millis);
    Ok(RumaResponse(response))
}
