//! GET /_matrix/client/v3/presence/{userId}/status (client-server API, "Presence").

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use chappe_services::presence::{GetPresenceError, Presence};
use ruma::api::client::presence::get_presence::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(presence): State<Arc<Presence>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let snapshot = presence.get(&session.user_id, &request.user_id)?;
    let mut response = Response::new(snapshot.state);
    response.status_msg = snapshot.status_msg;
    response.last_active_ago = snapshot.last_active_ago_ms.map(Duration::from_millis);
    response.currently_active = Some(snapshot.currently_active);
    Ok(RumaResponse(response))
}

impl From<GetPresenceError> for ApiError {
    fn from(error: GetPresenceError) -> Self {
        match error {
            GetPresenceError::Forbidden => Self::forbidden("You share no room with this user"),
            GetPresenceError::Store(error) => error.into(),
        }
    }
}
