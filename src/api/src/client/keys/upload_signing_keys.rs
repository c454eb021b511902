//! POST /_matrix/client/v3/keys/device_signing/upload (client-server API, "Cross-signing").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::{
    keys::{Keys, Reauthentication, SigningKeys, SigningKeysError},
    uia::Uia,
};
use ruma::api::client::keys::upload_signing_keys::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{ClientAddress, Ruma, RumaResponse, User},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(keys): State<Keys>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let Request { auth, master_key, self_signing_key, user_signing_key, .. } = request;
    let uploaded = SigningKeys { master: master_key, self_signing: self_signing_key, user_signing: user_signing_key };
    match keys.upload_signing_keys(&session.user_id, &uploaded, Reauthentication::NotDone).await {
        Err(SigningKeysError::ReauthenticationNeeded) => {}
        answer => return Ok(answer.map(|()| RumaResponse(Response::new()))?),
    }
    if auth.is_some() {
        limits.check_session(Limit::Authentication, &session)?;
    }
    uia.authorize_user(&session, "replace cross-signing keys", auth.as_ref(), address).await?;
    keys.upload_signing_keys(&session.user_id, &uploaded, Reauthentication::Done).await?;
    Ok(RumaResponse(Response::new()))
}
