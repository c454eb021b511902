//! GET /_matrix/client/v3/room_keys/version (client-server API, "Server-side key backups").

use axum::extract::State;
use chappe_services::key_backup::KeyBackup;
use ruma::UInt;
use ruma::api::client::backup::get_latest_backup_info::v3::{Request, Response};

use super::algorithm_json;
use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(backup): State<KeyBackup>,
    User(session): User,
    Ruma(_request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let current = backup.get_current_version(&session.user_id)?;
    let algorithm = algorithm_json(&current)?;
    Ok(RumaResponse(Response::new(algorithm, UInt::new_saturating(current.count), current.etag, current.version)))
}
