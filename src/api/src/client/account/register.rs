//! POST /_matrix/client/v3/register (client-server API, "Account registration").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{
    accounts::{Accounts, LoggedIn, NewDevice},
    registration::NewAccount,
    uia::Uia,
};
use ruma::api::client::account::register::{
    LoginType, RegistrationKind,
    v3::{Request, Response},
};
use std::time::Duration;

use crate::{
    error::ApiError,
    extract::{ClientAddress, Ruma, RumaResponse},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    match request.kind {
        RegistrationKind::User => {}
        RegistrationKind::Guest => {
            limits.check_address(Limit::Registration, address)?;
            let guest = accounts.register_guest(request.initial_device_display_name, request.refresh_token).await?;
            return Ok(RumaResponse(logged_in(guest)));
        }
        _ => return Err(ApiError::invalid_param("The kind of account is \"user\" or \"guest\"")),
    }
    if request.login_type == Some(LoginType::ApplicationService) {
        return Err(ApiError::forbidden(
            "Only application services register this way, and none is known by this token",
        ));
    }
    if request.auth.is_some() {
        limits.check_address(Limit::Registration, address)?;
    }
    // What cannot be had is refused before the client goes to the trouble of authenticating.
    let guest = request.guest_access_token.as_ref().map(|token| accounts.authenticate(token)).transpose()?;
    match (&guest, &request.username) {
        (Some(guest), username) => accounts.check_upgrade(guest, username.as_deref())?,
        (None, Some(username)) => drop(accounts.check_username(username)?),
        (None, None) => {}
    }
    if let Some(password) = &request.password {
        accounts.check_new_password(password)?;
    }
    uia.authorize_registration(request.auth.as_ref()).await?;

    let Some(password) = request.password else {
        return Err(ApiError::missing_param("A password is needed"));
    };
    let device = NewDevice {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
        refresh: request.refresh_token,
    };
    if let Some(guest) = guest {
        let device = (!request.inhibit_login).then_some(&device);
        let upgraded = accounts.upgrade_guest(&guest, &password, device).await?;
        return Ok(RumaResponse(upgraded.map_or_else(|| Response::new(guest.user_id), logged_in)));
    }
    let account = NewAccount { username: request.username, password: Some(password), admin: false };
    if request.inhibit_login {
        let user_id = accounts.create_user(&account).await?;
        return Ok(RumaResponse(Response::new(user_id)));
    }
    Ok(RumaResponse(logged_in(accounts.register(&account, &device).await?)))
}

fn logged_in(session: LoggedIn) -> Response {
    let mut response = Response::new(session.user_id);
    response.access_token = Some(session.tokens.access);
    response.device_id = Some(session.device_id);
    response.refresh_token = session.tokens.refresh;
    response.expires_in = session.tokens.expires_in_ms.map(Duration::from_millis);
    response
}
