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
    let server_name = accounts.server_name().to_owned();
    Ok(RumaResponse(Response::new(access_token, TokenType::Bearer, server_name, Duration::from_millis(lifetime_ms))))
}
