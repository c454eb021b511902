//! What application services alone may ask (application service API, "Client-Server API Extensions"), and the third-party networks that
//! they know.

use axum::{Json, Router};
use chappe_services::app_services::client::{AppServices, PingError, SetNetworkRoomError, ThirdPartyKind};
use http::StatusCode;
use ruma::api::{
    client::{appservice as ruma_app_service, thirdparty as ruma_third_party},
    error::ErrorCode,
};
use serde_json::Value as JsonValue;

use crate::{App, error::ApiError, route::Endpoints};

mod locations;
mod ping;
mod protocols;
mod set_network_room;
#[cfg(test)]
mod tests;
mod users;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_app_service::request_ping::v1::Request, _>(ping::handle)
        .endpoint::<ruma_app_service::set_room_visibility::v3::Request, _>(set_network_room::handle)
        .endpoint::<ruma_third_party::get_location_for_protocol::v3::Request, _>(locations::in_protocol)
        .endpoint::<ruma_third_party::get_location_for_room_alias::v3::Request, _>(locations::of_alias)
        .endpoint::<ruma_third_party::get_protocol::v3::Request, _>(protocols::one)
        .endpoint::<ruma_third_party::get_protocols::v3::Request, _>(protocols::all)
        .endpoint::<ruma_third_party::get_user_for_protocol::v3::Request, _>(users::in_protocol)
        .endpoint::<ruma_third_party::get_user_for_user_id::v3::Request, _>(users::of_user_id)
}

/// What services know of a protocol's third parties, by the fields that a client asks with. Its own token may be among those.
async fn look_up_in_protocol(
    app_services: &AppServices,
    kind: ThirdPartyKind,
    protocol: &str,
    mut fields: Vec<(String, String)>,
) -> Json<Vec<JsonValue>> {
    fields.retain(|(name, _)| name != "access_token");
    Json(app_services.fetch_third_party(kind, Some(protocol), &fields).await)
}

/// What services know of the third parties behind a Matrix id, which stands in a field of this name.
async fn look_up_by_id(
    app_services: &AppServices,
    kind: ThirdPartyKind,
    name: &str,
    id: Option<impl ToString>,
) -> Result<Json<Vec<JsonValue>>, ApiError> {
    let id = id.ok_or_else(|| ApiError::missing_param(format!("The {name} is missing")))?;
    Ok(Json(app_services.fetch_third_party(kind, None, &[(name.to_owned(), id.to_string())]).await))
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
