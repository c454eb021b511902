//! POST /_matrix/client/v3/keys/claim (client-server API, "Key management API").

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use chappe_services::keys::Keys;
use ruma::{
    OwnedUserId,
    api::client::keys::claim_keys::v3::{OneTimeKeys, Request},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma},
};

/// Ruma's response leaves `failures` out when it is empty, which clients do not expect.
#[derive(Serialize)]
pub struct Answer {
    failures: BTreeMap<String, Value>,
    one_time_keys: BTreeMap<OwnedUserId, OneTimeKeys>,
}

pub async fn handle(
    State(keys): State<Keys>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Answer>, ApiError> {
    let answer = keys.claim(&session.user_id, request.one_time_keys, request.timeout).await?;
    Ok(Json(Answer { failures: answer.failures, one_time_keys: answer.one_time_keys }))
}
