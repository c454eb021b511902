//! POST /_matrix/client/v3/account/deactivate (client-server API, "Account management").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{
    accounts::{Accounts, Erase},
    uia::Uia,
};
use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus,
    deactivate::v3::{Request, Response},
};

use crate::{
    error::ApiError,
    extract::{ClientAddress, Ruma, RumaResponse, User},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if request.auth.is_some() {
        limits.check_user(Limit::Authentication, &session.user_id)?;
    }
    uia.authorize_user(&session, "deactivate account", request.auth.as_ref(), address).await?;
    let erase = if request.erase { Erase::Yes } else { Erase::No };
    accounts.deactivate(&session.user_id, erase).await?;
    // No third-party identifier was ever bound through this server, so none is left to unbind.
    Ok(RumaResponse(Response { id_server_unbind_result: ThirdPartyIdRemovalStatus::Success }))
}
