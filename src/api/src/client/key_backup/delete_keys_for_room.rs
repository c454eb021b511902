//! DELETE /_matrix/client/v3/room_keys/keys/{roomId} (client-server API, "Server-side key backups").

use axum::extract::State;
use chappe_services::key_backup::{BackupSelection, KeyBackup};
use ruma::UInt;
use ruma::api::client::backup::delete_backup_keys_for_room::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(backup): State<KeyBackup>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let selection = BackupSelection::Room(request.room_id.as_str());
    let state = backup.delete_keys(&session.user_id, &request.version, selection).await?;
    Ok(RumaResponse(Response::new(state.etag, UInt::new_saturating(state.count))))
}
