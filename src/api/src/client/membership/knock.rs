//! POST /_matrix/client/v3/knock/{roomIdOrAlias} (client-server API, "Knocking on rooms").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::Rooms;
use chappe_services::{app_services::client::AppServices, directory::Directory, profile::Profiles};
use ruma::{OwnedRoomOrAliasId, api::client::knock::knock_room::v3::Response};

use super::{
    join_by_id_or_alias::resolve,
    target::{ReasonBody, member_profile},
    via::Via,
};
use crate::{
    error::ApiError,
    extract::{Active, JsonBody, PathParams, RumaResponse, User},
    rate_limit::{Limit, RateLimits},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    State(directory): State<Arc<Directory>>,
    State(profiles): State<Arc<Profiles>>,
    State(limits): State<Arc<RateLimits>>,
    State(app_services): State<AppServices>,
    Active(User(session)): Active<User>,
    PathParams(room): PathParams<OwnedRoomOrAliasId>,
    Via(via): Via,
    JsonBody(body): JsonBody<ReasonBody>,
) -> Result<RumaResponse<Response>, ApiError> {
    limits.check_session(Limit::JoinLocal, &session)?;
    let (room_id, via) = resolve(&app_services, &directory, room, via).await?;
    let profile = member_profile(&profiles, &session.user_id)?;
    rooms.knock(&session.user_id, &room_id, &via, &profile, body.reason).await?;
    Ok(RumaResponse(Response::new(room_id)))
}
