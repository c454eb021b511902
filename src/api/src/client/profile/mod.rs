//! Profiles: display names, avatars and other fields.

use axum::Router;
use ruma::api::client::profile as ruma_profile;

use crate::{App, route::Endpoints};

mod delete_field;
mod get_field;
mod get_profile;
mod set_field;
#[cfg(test)]
mod tests;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_profile::delete_profile_field::v3::Request, _>(delete_field::handle)
        .endpoint::<ruma_profile::get_profile::v3::Request, _>(get_profile::handle)
        .endpoint::<ruma_profile::get_profile_field::v3::Request, _>(get_field::handle)
        .endpoint::<ruma_profile::set_profile_field::v3::Request, _>(set_field::handle)
}
