//! Voice over IP: credentials for TURN servers. Calls themselves are events like others.

use axum::Router;
use chappe_services::turn::TurnError;
use ruma::api::client::voip as ruma_voip;

use crate::{App, error::ApiError, route::Endpoints};

mod turn_server;

pub fn router() -> Router<App> {
    Router::new().endpoint::<ruma_voip::get_turn_server_info::v3::Request, _>(turn_server::handle)
}

impl From<TurnError> for ApiError {
    fn from(error: TurnError) -> Self {
        match error {
            TurnError::None => Self::not_found(error.to_string()),
            TurnError::Guest => Self::guest_forbidden(),
        }
    }
}
