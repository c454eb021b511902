//! POST /_matrix/client/v3/account/deactivate (client-server API, "Account management").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::Rooms;
use chappe_services::{
    accounts::{Accounts, Erase},
    uia::Uia,
};
use ruma::{
    UserId,
    api::client::account::{
        ThirdPartyIdRemovalStatus,
        deactivate::v3::{Request, Response},
    },
};

use crate::{
    error::ApiError,
    extract::{ClientAddress, Ruma, RumaResponse, User},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Rooms>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if request.auth.is_some() {
        limits.check_user(Limit::Authentication, &session.user_id)?;
    }
    uia.authorize_user(&session, "deactivate account", request.auth.as_ref(), address).await?;
    let erase = if request.erase { Erase::Yes } else { Erase::No };
    accounts.deactivate(&session.user_id, erase).await?;
    // On its own: a client that hangs up does not keep its user in half of the rooms.
    let leaving = tokio::spawn(async move { leave_all(&rooms, &session.user_id).await });
    leaving.await.map_err(ApiError::internal)??;
    // No third-party identifier was ever bound through this server, so none is left to unbind.
    Ok(RumaResponse(Response::new(ThirdPartyIdRemovalStatus::Success)))
}

/// Takes a user out of every room, and back from every invite and knock. A room that cannot be left does not keep the others.
async fn leave_all(rooms: &Rooms, user_id: &UserId) -> Result<(), ApiError> {
    let memberships: Vec<_> = rooms.scan_user_rooms(user_id).collect::<Result<_, _>>()?;
    for (room, member) in memberships {
        if !matches!(member.value.membership.as_str(), "join" | "invite" | "knock") {
            continue;
        }
        let Some(room_id) = rooms.get_room_id(room)? else { continue };
        if let Err(error) = rooms.leave(user_id, &room_id, None).await {
            tracing::warn!(user.id = %user_id, room.id = %room_id, %error, "a deactivated user could not leave a room");
        }
    }
    Ok(())
}
