//! GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId} (client-server API, "Server-side key backups").

use axum::extract::State;
use chappe_services::key_backup::{BackupError, BackupSelection, KeyBackup};
use ruma::api::client::backup::get_backup_keys_for_session::v3::{Request, Response};

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
    let selection = BackupSelection::Session { room: request.room_id.as_str(), session: &request.session_id };
    let mut rooms = backup.get_keys(&session.user_id, &request.version, selection)?;
    let sessions = rooms.remove(request.room_id.as_str()).unwrap_or_default();
    let key = raw_sessions(sessions).remove(&request.session_id).ok_or(BackupError::UnknownKey)?;
    Ok(RumaResponse(Response::new(key)))
}
