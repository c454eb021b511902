//! DELETE /_matrix/client/v3/room_keys/version/{version} (client-server API, "Server-side key backups").

use axum::extract::State;
use chappe_services::key_backup::KeyBackup;
use ruma::api::client::backup::delete_backup_version::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(backup): State<KeyBackup>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    backup.delete_version(&session.user_id, &request.version).await?;
    Ok(RumaResponse(Response::new()))
}
