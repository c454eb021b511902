//! POST /_matrix/client/v3/login (client-server API, "Login").

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::extract::State;
use chappe_services::{
    accounts::{Accounts, CheckPasswordError, LoggedIn, LoginError, NewDevice},
    app_services::Registration,
    emails::Emails,
};
use ruma::api::client::{
    session::login::v3::{ApplicationService, DiscoveryInfo, HomeserverInfo, LoginInfo, Password, Request, Response},
    uiaa::UserIdentifier,
};

use crate::{
    client::discovery::DiscoveryConfig,
    error::ApiError,
    extract::{AppService, ClientAddress, Ruma, RumaResponse},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(discovery): State<Arc<DiscoveryConfig>>,
    State(emails): State<Arc<Emails>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    service: Result<AppService, ApiError>,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let device = NewDevice {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
        refresh: request.refresh_token,
    };
    let session = match request.login_info {
        LoginInfo::Password(login) => with_password(&accounts, &emails, &limits, &login, &device, address).await?,
        LoginInfo::ApplicationService(login) => for_service(&accounts, &service?.0, &login, &device).await?,
        LoginInfo::Token(login) => accounts.login_with_token(&login.token, &device).await?,
        _ => {
            return Err(ApiError::new(
                http::StatusCode::BAD_REQUEST,
                ruma::api::error::ErrorCode::Unknown,
                "Unknown login type",
            ));
        }
    };
    Ok(RumaResponse(response(session, &discovery)))
}

async fn with_password(
    accounts: &Accounts,
    emails: &Emails,
    limits: &RateLimits,
    login: &Password,
    device: &NewDevice,
    address: Option<IpAddr>,
) -> Result<LoggedIn, ApiError> {
    // The older form has `user` in place of `identifier`.
    #[allow(deprecated)]
    let user = match (&login.identifier, &login.user) {
        (Some(UserIdentifier::Matrix(identifier)), _) => &identifier.user,
        (Some(UserIdentifier::Email(identifier)), _) => {
            // An address that nobody has takes the same path as a name that nobody has.
            let user_id = emails.get_user(&identifier.address)?;
            &user_id.map_or_else(|| identifier.address.clone(), |user_id| user_id.to_string())
        }
        // Nobody here has a telephone number to log in with.
        (Some(_), _) => return Err(LoginError::Password(CheckPasswordError::Wrong).into()),
        (None, Some(user)) => user,
        (None, None) => return Err(ApiError::missing_param("Whom to log in is missing: there is no identifier")),
    };
    if let Some(user_id) = accounts.get_login_user_id(user)? {
        limits.check_user(Limit::LoginAccount, &user_id)?;
    }
    Ok(accounts.login_with_password(user, &login.password, device, address).await?)
}

async fn for_service(
    accounts: &Accounts,
    service: &Registration,
    login: &ApplicationService,
    device: &NewDevice,
) -> Result<LoggedIn, ApiError> {
    #[allow(deprecated)]
    let user = match (&login.identifier, &login.user) {
        (Some(UserIdentifier::Matrix(identifier)), _) => &identifier.user,
        (None, Some(user)) => user,
        _ => return Err(ApiError::invalid_param("Application services log users in by their user ids")),
    };
    Ok(accounts.login_for(service, user, device).await?)
}

#[allow(deprecated)]
fn response(session: LoggedIn, discovery: &DiscoveryConfig) -> Response {
    let mut response = Response::new(session.user_id, session.tokens.access, session.device_id);
    // Deprecated, but old clients and bots still read it.
    response.home_server = Some(response.user_id.server_name().to_owned());
    response.well_known =
        discovery.client_base_url.as_ref().map(|base_url| DiscoveryInfo::new(HomeserverInfo::new(base_url.clone())));
    response.refresh_token = session.tokens.refresh;
    response.expires_in = session.tokens.expires_in_ms.map(Duration::from_millis);
    response
}
