//! POST /_matrix/client/v3/room_keys/version (client-server API, "Server-side key backups").

use axum::extract::State;
use chappe_services::key_backup::KeyBackup;
use ruma::api::client::backup::create_backup_version::v3::{Request, Response};

use super::parse_algorithm;
use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(backup): State<KeyBackup>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let (algorithm, auth_data) = parse_algorithm(&request.algorithm)?;
    let version = backup.create_version(&session.user_id, &algorithm, &auth_data).await?;
    Ok(RumaResponse(Response::new(version)))
}
