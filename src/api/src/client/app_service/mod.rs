//! What application services alone may ask (application service API, "Client-Server API Extensions"), and the third-party networks that
//! they know.

use axum::Router;
use chappe_services::app_services::client::{PingError, SetNetworkRoomError};
use http::StatusCode;
use ruma::api::{
    client::{appservice as ruma_app_service, thirdparty as ruma_third_party},
    error::ErrorCode,
};

use self::third_parties::{Locations, Users};
use crate::{App, error::ApiError, route::Endpoints};

mod ping;
mod protocols;
mod set_network_room;
#[cfg(test)]
mod tests;
mod third_parties;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_app_service::request_ping::v1::Request, _>(ping::handle)
        .endpoint::<ruma_app_service::set_room_visibility::v3::Request, _>(set_network_room::handle)
        .endpoint::<ruma_third_party::get_location_for_protocol::v3::Request, _>(
            third_parties::in_protocol::<Locations>,
        )
        .endpoint::<ruma_third_party::get_location_for_room_alias::v3::Request, _>(third_parties::of_id::<Locations>)
        .endpoint::<ruma_third_party::get_protocol::v3::Request, _>(protocols::one)
        .endpoint::<ruma_third_party::get_protocols::v3::Request, _>(protocols::all)
        .endpoint::<ruma_third_party::get_user_for_protocol::v3::Request, _>(third_parties::in_protocol::<Users>)
        .endpoint::<ruma_third_party::get_user_for_user_id::v3::Request, _>(third_parties::of_id::<Users>)
}

fn no_such_protocol() -> ApiError {
    ApiError::not_found("No application service knows this protocol")
}

impl From<PingError> for ApiError {
    fn from(error: PingError) -> Self {
        let message = error.to_string();
        match error {
            PingError::WrongService => Self::forbidden("A service may ask for a ping of itself only"),
            PingError::NoUrl => Self::new(StatusCode::BAD_REQUEST, ErrorCode::UrlNotSet, message),
            PingError::TimedOut => Self::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::ConnectionTimeout, message),
            PingError::Unreachable(_) => Self::new(StatusCode::BAD_GATEWAY, ErrorCode::ConnectionFailed, message),
            PingError::BadStatus { status, body } => Self::new(StatusCode::BAD_GATEWAY, ErrorCode::BadStatus, message)
                .with("status", status)
                .with("body", body),
        }
    }
}

impl From<SetNetworkRoomError> for ApiError {
    fn from(error: SetNetworkRoomError) -> Self {
        match error {
            SetNetworkRoomError::UnknownRoom => Self::not_found("Unknown room"),
            SetNetworkRoomError::InvalidNetwork => Self::invalid_param(error.to_string()),
            SetNetworkRoomError::Read(error) => error.into(),
            SetNetworkRoomError::Write(error) => error.into(),
        }
    }
}
