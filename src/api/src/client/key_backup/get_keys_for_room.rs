//! GET /_matrix/client/v3/room_keys/keys/{roomId} (client-server API, "Server-side key backups").

use axum::extract::State;
use chappe_services::key_backup::{BackupSelection, KeyBackup};
use ruma::api::client::backup::get_backup_keys_for_room::v3::{Request, Response};

use super::raw_sessions;
use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(backup): State<KeyBackup>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let mut rooms =
        backup.get_keys(&session.user_id, &request.version, BackupSelection::Room(request.room_id.as_str()))?;
    let sessions = rooms.remove(request.room_id.as_str()).unwrap_or_default();
    Ok(RumaResponse(Response::new(raw_sessions(sessions))))
}
