//! POST /_matrix/client/v3/keys/query (client-server API, "Key management API").

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use chappe_services::keys::Keys;
use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::client::keys::get_keys::v3::Request,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma},
};

type CrossSigningKeys = BTreeMap<OwnedUserId, Raw<CrossSigningKey>>;

/// Ruma's response leaves empty maps out, which clients do not expect.
#[derive(Serialize)]
pub struct Answer {
    failures: BTreeMap<String, Value>,
    device_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    master_keys: CrossSigningKeys,
    self_signing_keys: CrossSigningKeys,
    user_signing_keys: CrossSigningKeys,
}

pub async fn handle(
    State(keys): State<Keys>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Answer>, ApiError> {
    let answer = keys.query(&session.user_id, request.device_keys, request.timeout).await?;
    Ok(Json(Answer {
        failures: answer.failures,
        device_keys: answer.device_keys,
        master_keys: answer.master_keys,
        self_signing_keys: answer.self_signing_keys,
        user_signing_keys: answer.user_signing_keys,
    }))
}
