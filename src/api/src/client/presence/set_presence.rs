//! PUT /_matrix/client/v3/presence/{userId}/status (client-server API, "Presence").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::presence::{Presence, SetPresenceError};
use ruma::api::client::presence::set_presence::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(presence): State<Arc<Presence>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if request.user_id != session.user_id {
        return Err(ApiError::forbidden("You can only set your own presence"));
    }
    presence.set(&session.user_id, request.presence, request.status_msg).await?;
    Ok(RumaResponse(Response::new()))
}

impl From<SetPresenceError> for ApiError {
    fn from(error: SetPresenceError) -> Self {
        match error {
            SetPresenceError::TooLong | SetPresenceError::UnknownState => Self::invalid_param(error.to_string()),
            SetPresenceError::Commit(error) => error.into(),
        }
    }
}
