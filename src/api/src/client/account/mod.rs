//! Accounts: registering, passwords, and what an account is.

use axum::Router;
use http::Method;
use ruma::api::client::account as ruma_account;

use crate::{App, route::Endpoints};

mod auth_fallback;
mod deactivate;
mod email_fallback;
mod openid;
mod password;
mod password_policy;
mod register;
mod registration_token;
mod shared_secret;
#[cfg(test)]
mod tests;
mod username;
mod whoami;

pub fn router() -> Router<App> {
    let mut router = Router::new();
    for path in auth_fallback::PATHS {
        router = router.at(Method::GET, path, auth_fallback::show).at(Method::POST, path, auth_fallback::complete);
    }
    for path in password_policy::PATHS {
        router = router.at(Method::GET, path, password_policy::handle);
    }
    router
        .endpoint::<ruma_account::change_password::v3::Request, _>(password::handle)
        .endpoint::<ruma_account::check_registration_token_validity::v1::Request, _>(registration_token::handle)
        .endpoint::<ruma_account::deactivate::v3::Request, _>(deactivate::handle)
        .endpoint::<ruma_account::get_username_availability::v3::Request, _>(username::handle)
        .endpoint::<ruma_account::register::v3::Request, _>(register::handle)
        .endpoint::<ruma_account::request_openid_token::v3::Request, _>(openid::handle)
        .endpoint::<ruma_account::whoami::v3::Request, _>(whoami::handle)
        .at(Method::GET, shared_secret::PATH, shared_secret::handle_nonce)
        .at(Method::POST, shared_secret::PATH, shared_secret::handle)
}
