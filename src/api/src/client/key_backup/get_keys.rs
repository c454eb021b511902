//! GET /_matrix/client/v3/room_keys/keys (client-server API, "Server-side key backups").

use axum::extract::State;
use chappe_services::key_backup::{BackupSelection, KeyBackup};
use ruma::api::client::backup::RoomKeyBackup;
use ruma::api::client::backup::get_backup_keys::v3::{Request, Response};

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
    let rooms = backup.get_keys(&session.user_id, &request.version, BackupSelection::All)?;
    let rooms = rooms
        .into_iter()
        .filter_map(|(room, sessions)| Some((room.try_into().ok()?, RoomKeyBackup::new(raw_sessions(sessions)))));
    Ok(RumaResponse(Response::new(rooms.collect())))
}
