//! PUT /_matrix/client/v3/room_keys/version/{version} (client-server API, "Server-side key backups").

use axum::{Json, extract::State};
use chappe_services::key_backup::KeyBackup;
use ruma::api::client::backup::update_backup_version::v3::Request;
use serde::Deserialize;
use serde_json::{Value, json};

use super::parse_algorithm;
use crate::{
    error::ApiError,
    extract::{Ruma, User},
};

/// The field of the body that ruma's request does not know.
#[derive(Deserialize)]
struct BodyVersion {
    version: Option<String>,
}

pub async fn handle(
    State(backup): State<KeyBackup>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Value>, ApiError> {
    let (algorithm, auth_data) = parse_algorithm(&request.algorithm)?;
    let body: BodyVersion =
        serde_json::from_str(request.algorithm.json().get()).map_err(|error| ApiError::bad_json(error.to_string()))?;
    if body.version.is_some_and(|version| version != request.version) {
        return Err(ApiError::invalid_param("The version in the body is not the one in the path"));
    }
    backup.update_version(&session.user_id, &request.version, &algorithm, &auth_data).await?;
    Ok(Json(json!({})))
}
