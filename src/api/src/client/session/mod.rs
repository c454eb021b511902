//! Logging in and out.

use axum::Router;
use http::Method;
use ruma::api::client::session as ruma_session;

use crate::{App, route::Endpoints};

mod login;
mod login_fallback;
mod login_flows;
mod login_token;
mod logout;
mod logout_all;
mod refresh;
#[cfg(test)]
mod tests;

pub fn router() -> Router<App> {
    let mut router = Router::new();
    for path in login_fallback::PATHS {
        router = router.at(Method::GET, path, login_fallback::handle);
    }
    router
        .endpoint::<ruma_session::get_login_token::v1::Request, _>(login_token::handle)
        .endpoint::<ruma_session::get_login_types::v3::Request, _>(login_flows::handle)
        .endpoint::<ruma_session::login::v3::Request, _>(login::handle)
        .endpoint::<ruma_session::logout::v3::Request, _>(logout::handle)
        .endpoint::<ruma_session::logout_all::v3::Request, _>(logout_all::handle)
        .endpoint::<ruma_session::refresh_token::v3::Request, _>(refresh::handle)
}
