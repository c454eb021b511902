//! POST /_matrix/client/v3/account/deactivate (client-server API, "Account management").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::Rooms;
use chappe_services::{
    accounts::{Accounts, Erase},
    media::Media,
};
use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus,
    deactivate::v3::{Request, Response},
};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, StepUp},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(media): State<Media>,
    State(rooms): State<Rooms>,
    step_up: StepUp,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let session = step_up.authorize("deactivate account", request.auth.as_ref()).await?;
    let erase = if request.erase { Erase::Yes } else { Erase::No };
    accounts.deactivate(&session.user_id, erase).await?;
    // On its own: a client that hangs up does not keep its user in half of the rooms.
    let leaving = tokio::spawn(async move {
        for (room_id, error) in rooms.leave_all(&session.user_id).await? {
            tracing::warn!(user.id = %session.user_id, room.id = %room_id, %error, "a deactivated user could not leave a room");
        }
        if erase == Erase::Yes {
            media.delete_all_of(&session.user_id).await?;
        }
        Ok::<_, ApiError>(())
    });
    leaving.await.map_err(ApiError::internal)??;
    // No third-party identifier was ever bound through this server, so none is left to unbind.
    Ok(RumaResponse(Response::new(ThirdPartyIdRemovalStatus::Success)))
}
