//! POST /_matrix/client/v3/register (client-server API, "Account registration").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{
    accounts::{Accounts, LoggedIn, NewDevice},
    app_services::Registration,
    emails::{AddEmailError, Emails, ValidatedEmail},
    registration::NewAccount,
    uia::Uia,
};
use ruma::{
    UserId,
    api::client::account::register::{
        LoginType, RegistrationKind,
        v3::{Request, Response},
    },
};
use std::time::Duration;

use crate::{
    error::ApiError,
    extract::{AppService, ClientAddress, Ruma, RumaResponse},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(emails): State<Arc<Emails>>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    service: Result<AppService, ApiError>,
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
        return register_for(&accounts, &service?.0, request).await;
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
    let email = uia.authorize_registration(request.auth.as_ref()).await?;

    let Some(password) = request.password else {
        return Err(ApiError::missing_param("A password is needed"));
    };
    if let Some(email) = &email {
        if emails.get_user(&email.address)?.is_some() {
            return Err(AddEmailError::InUse.into());
        }
        // One proof makes one account.
        emails.spend(email).await?;
    }
    let device = NewDevice {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
        refresh: request.refresh_token,
    };
    if let Some(guest) = guest {
        let device = (!request.inhibit_login).then_some(&device);
        let upgraded = accounts.upgrade_guest(&guest, &password, device).await?;
        add_email(&emails, &guest.user_id, email.as_ref()).await;
        return Ok(RumaResponse(upgraded.map_or_else(|| Response::new(guest.user_id), logged_in)));
    }
    let account = NewAccount { username: request.username, password: Some(password), admin: false };
    if request.inhibit_login {
        let user_id = accounts.create_user(&account).await?;
        add_email(&emails, &user_id, email.as_ref()).await;
        return Ok(RumaResponse(Response::new(user_id)));
    }
    let session = accounts.register(&account, &device).await?;
    add_email(&emails, &session.user_id, email.as_ref()).await;
    Ok(RumaResponse(logged_in(session)))
}

/// Gives a new account the address that was proven. The account is there, whatever becomes of that.
async fn add_email(emails: &Emails, user_id: &UserId, email: Option<&ValidatedEmail>) {
    let Some(email) = email else { return };
    if let Err(error) = emails.add(user_id, email).await {
        tracing::warn!(%error, user.id = %user_id, "the email address was not added to a new account");
    }
}

/// Application services register their users without further ado (application service API, "Server admin style permissions").
async fn register_for(
    accounts: &Accounts,
    service: &Registration,
    request: Request,
) -> Result<RumaResponse<Response>, ApiError> {
    let username = request.username.ok_or_else(|| ApiError::missing_param("The user name is missing"))?;
    let device = NewDevice {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
        refresh: request.refresh_token,
    };
    let device = (!request.inhibit_login).then_some(device);
    let (user_id, session) = accounts.register_for(service, &username, device.as_ref()).await?;
    Ok(RumaResponse(session.map_or_else(|| Response::new(user_id), logged_in)))
}

fn logged_in(session: LoggedIn) -> Response {
    let mut response = Response::new(session.user_id);
    response.access_token = Some(session.tokens.access);
    response.device_id = Some(session.device_id);
    response.refresh_token = session.tokens.refresh;
    response.expires_in = session.tokens.expires_in_ms.map(Duration::from_millis);
    response
}
