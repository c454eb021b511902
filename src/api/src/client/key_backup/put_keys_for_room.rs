//! PUT /_matrix/client/v3/room_keys/keys/{roomId} (client-server API, "Server-side key backups").

use axum::extract::State;
use chappe_services::key_backup::{BackupRooms, KeyBackup};
use ruma::UInt;
use ruma::api::client::backup::add_backup_keys_for_room::v3::{Request, Response};

use super::parse_sessions;
use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(backup): State<KeyBackup>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let rooms = BackupRooms::from([(request.room_id.to_string(), parse_sessions(request.sessions)?)]);
    let state = backup.put_keys(&session.user_id, &request.version, &rooms).await?;
    Ok(RumaResponse(Response::new(state.etag, UInt::new_saturating(state.count))))
}
