//! POST /_matrix/client/v3/account/3pid, deprecated (client-server API, "Adding Account Administrative Contact Information").
//!
//! It asks for no password, and so adds only addresses whose proof was asked for to be added, and binds nothing.

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_services::emails::{Emails, Purpose};
use ruma::{OwnedClientSecret, OwnedSessionId};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::require_mail;
use crate::{
    error::ApiError,
    extract::{JsonBody, User},
};

pub const PATH: &str = "/_matrix/client/v3/account/3pid";
pub const OLD_PATH: &str = "/_matrix/client/r0/account/3pid";

#[derive(Deserialize)]
pub struct Body {
    #[serde(alias = "threePidCreds")]
    three_pid_creds: Option<Credentials>,
}

#[derive(Deserialize)]
struct Credentials {
    sid: OwnedSessionId,
    client_secret: OwnedClientSecret,
}

pub async fn handle(
    State(emails): State<Arc<Emails>>,
    User(session): User,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<JsonValue>, ApiError> {
    require_mail(&emails)?;
    let credentials = body.three_pid_creds.ok_or_else(|| ApiError::missing_param("The three_pid_creds are missing"))?;
    let email =
        emails.check_proof(Purpose::AddAddress, credentials.sid.as_str(), credentials.client_secret.as_str())?;
    emails.add(&session.user_id, &email).await?;
    Ok(Json(json!({})))
}
