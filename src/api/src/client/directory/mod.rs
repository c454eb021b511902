//! The room directory: aliases, and the list of public rooms.

use axum::Router;
use chappe_services::directory::PublicRoomsError;
use ruma::api::client::{alias as ruma_alias, directory as ruma_directory};

use crate::{App, error::ApiError, route::Endpoints};

mod delete_alias;
mod get_alias;
mod get_visibility;
mod public_rooms;
pub(crate) mod set_alias;
mod set_visibility;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_alias::create_alias::v3::Request, _>(set_alias::handle)
        .endpoint::<ruma_alias::delete_alias::v3::Request, _>(delete_alias::handle)
        .endpoint::<ruma_alias::get_alias::v3::Request, _>(get_alias::handle)
        .endpoint::<ruma_directory::get_public_rooms::v3::Request, _>(public_rooms::get)
        .endpoint::<ruma_directory::get_public_rooms_filtered::v3::Request, _>(public_rooms::post)
        .endpoint::<ruma_directory::get_room_visibility::v3::Request, _>(get_visibility::handle)
        .endpoint::<ruma_directory::set_room_visibility::v3::Request, _>(set_visibility::handle)
}

impl From<PublicRoomsError> for ApiError {
    fn from(error: PublicRoomsError) -> Self {
        match error {
            PublicRoomsError::InvalidToken => Self::invalid_param(error.to_string()),
            PublicRoomsError::Remote(error) => error.into(),
            PublicRoomsError::Rooms(error) => error.into(),
            PublicRoomsError::Read(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
