//! POST /_matrix/client/v3/keys/device_signing/upload (client-server API, "Cross-signing").

use axum::extract::State;
use chappe_services::keys::{Keys, Reauthentication, SigningKeys, SigningKeysError};
use ruma::api::client::keys::upload_signing_keys::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, StepUp},
};

pub async fn handle(
    State(keys): State<Keys>,
    step_up: StepUp,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let Request { auth, master_key, self_signing_key, user_signing_key, .. } = request;
    let uploaded = SigningKeys { master: master_key, self_signing: self_signing_key, user_signing: user_signing_key };
    match keys.upload_signing_keys(&step_up.session().user_id, &uploaded, Reauthentication::NotDone).await {
        Err(SigningKeysError::ReauthenticationNeeded) => {}
        answer => return Ok(answer.map(|()| RumaResponse(Response::new()))?),
    }
    let session = step_up.authorize("replace cross-signing keys", auth.as_ref()).await?;
    keys.upload_signing_keys(&session.user_id, &uploaded, Reauthentication::Done).await?;
    Ok(RumaResponse(Response::new()))
}
