//! POST /_matrix/client/v3/account/deactivate (client-server API, "Account management").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::Rooms;
use chappe_services::{
    accounts::{Accounts, Erase},
    media::Media,
    uia::Uia,
};
use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus,
    deactivate::v3::{Request, Response},
};

use crate::{
    error::ApiError,
    extract::{ClientAddress, Ruma, RumaResponse, User},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(media): State<Media>,
    State(rooms): State<Rooms>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if request.auth.is_some() {
        limits.check_session(Limit::Authentication, &session)?;
    }
    uia.authorize_user(&session, "deactivate account", request.auth.as_ref(), address).await?;
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
