//! POST /_matrix/client/unstable/event_relationships (MSC2836, "Querying relationships").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::{Rooms, client_event::Viewer, relations::Audience, relationships::RelationshipQuery};
use chappe_services::account_data::AccountData;
use serde::Serialize;

use crate::{
    client::message::shown::RawEvents,
    error::ApiError,
    extract::{Authenticated, JsonBody},
};

#[derive(Serialize)]
pub struct Related {
    events: RawEvents,
    limited: bool,
}

pub async fn handle(
    State(rooms): State<Rooms>,
    State(account_data): State<Arc<AccountData>>,
    Authenticated(session): Authenticated,
    JsonBody(query): JsonBody<RelationshipQuery>,
) -> Result<Json<Related>, ApiError> {
    let ignored = account_data.get_ignored_users(&session.user_id)?;
    let viewer = Viewer::new(&session.user_id, Some(&session.device_id));
    let audience = Audience { viewer, ignored: &ignored };
    let related = rooms.get_related(audience, &query).await?;
    let events =
        related.events.iter().map(|event| rooms.to_client_related(event, audience)).collect::<Result<_, _>>()?;
    Ok(Json(Related { events, limited: related.limited }))
}
