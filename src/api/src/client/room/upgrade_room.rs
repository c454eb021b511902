//! POST /_matrix/client/v3/rooms/{roomId}/upgrade (client-server API, "Room upgrades").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::{Rooms, upgrade::UpgradeRoom};
use chappe_services::profile::Profiles;
use ruma::api::client::room::upgrade_room::v3::{Request, Response};

use crate::{
    client::membership::target::{member_profile, require_known},
    error::ApiError,
    extract::{Active, Ruma, RumaResponse, User},
};

/// The most creators that one request may name.
const CREATORS_MAX: usize = 100;

pub async fn handle(
    State(rooms): State<Rooms>,
    State(profiles): State<Arc<Profiles>>,
    Active(User(session)): Active<User>,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if request.additional_creators.len() > CREATORS_MAX {
        return Err(ApiError::invalid_param("Too many additional creators"));
    }
    require_known(&rooms, &request.room_id)?;
    let upgrade = UpgradeRoom {
        version: request.new_version,
        additional_creators: request.additional_creators,
        profile: member_profile(&profiles, &session.user_id)?,
    };
    let replacement = rooms.upgrade_room(&session.user_id, &request.room_id, upgrade).await?;
    Ok(RumaResponse(Response::new(replacement)))
}
