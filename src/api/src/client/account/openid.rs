//! POST /_matrix/client/v3/user/{userId}/openid/request_token (client-server API, "OpenID").

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use chappe_services::accounts::Accounts;
use ruma::{
    api::client::account::request_openid_token::v3::{Request, Response},
    authentication::TokenType,
};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if request.user_id != session.user_id {
        return Err(ApiError::forbidden("Tokens can be had for oneself only"));
    }
    let (access_token, lifetime_ms) = accounts.create_openid_token(&session.user_id).await?;
    Ok(RumaResponse(Response {
        access_token,
        token_type: TokenType::Bearer,
        matrix_server_name: accounts.server_name().to_owned(),
        expires_in: Duration::from_millis(lifetime_ms),
    }))
}
