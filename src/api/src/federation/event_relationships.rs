//! POST /_matrix/federation/unstable/event_relationships (MSC2836, "Querying relationships over federation").

use axum::{Json, extract::State};
use chappe_rooms::{
    Rooms,
    relationships::{RelatedAnswer, RelationshipQuery},
};

use crate::{error::ApiError, extract::SignedJson};

pub async fn event_relationships(
    State(rooms): State<Rooms>,
    SignedJson { origin, body }: SignedJson<RelationshipQuery>,
) -> Result<Json<RelatedAnswer>, ApiError> {
    Ok(Json(rooms.get_related_for_server(&origin, &body).await?))
}
