//! GET /_matrix/client/v3/room_keys/version/{version} (client-server API, "Server-side key backups").

use axum::extract::State;
use chappe_services::key_backup::KeyBackup;
use ruma::UInt;
use ruma::api::client::backup::get_backup_info::v3::{Request, Response};

use super::algorithm_json;
use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(backup): State<KeyBackup>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let version = backup.get_version(&session.user_id, &request.version)?;
    let algorithm = algorithm_json(&version)?;
    Ok(RumaResponse(Response::new(algorithm, UInt::new_saturating(version.count), version.etag, version.version)))
}
