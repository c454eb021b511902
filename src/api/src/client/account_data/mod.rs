//! Account data, global and for rooms.

use axum::Router;
use http::Method;
use ruma::{UserId, api::client::config as ruma_config};

use crate::{App, error::ApiError, route::Endpoints};

mod delete_global;
mod delete_room;
mod get_global;
mod get_room;
mod set_global;
mod set_room;
#[cfg(test)]
mod tests;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_config::get_global_account_data::v3::Request, _>(get_global::handle)
        .endpoint::<ruma_config::get_room_account_data::v3::Request, _>(get_room::handle)
        .endpoint::<ruma_config::set_global_account_data::v3::Request, _>(set_global::handle)
        .endpoint::<ruma_config::set_room_account_data::v3::Request, _>(set_room::handle)
        .at(Method::DELETE, delete_global::PATH, delete_global::handle)
        .at(Method::DELETE, delete_room::PATH, delete_room::handle)
}

fn check_own(own: &UserId, user_id: &UserId) -> Result<(), ApiError> {
    if own == user_id { Ok(()) } else { Err(ApiError::forbidden("Account data is for its own user only")) }
}
