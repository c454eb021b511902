//! PUT /_matrix/client/v3/directory/list/room/{roomId} (client-server API, "Published room directory").

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use ruma::{OwnedRoomId, api::client::room::Visibility};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use crate::{
    error::ApiError,
    extract::{JsonBody, PathParams, User},
};

#[derive(Deserialize)]
pub struct Body {
    #[serde(default = "public")]
    visibility: Visibility,
}

fn public() -> Visibility {
    Visibility::Public
}

pub async fn handle(
    State(rooms): State<Rooms>,
    User(session): User,
    PathParams(room_id): PathParams<OwnedRoomId>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<JsonValue>, ApiError> {
    let is_listed = match body.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(ApiError::invalid_param("The visibility is neither public nor private")),
    };
    if session.is_admin {
        rooms.set_listed_by_admin(&room_id, is_listed).await?;
    } else {
        rooms.set_listed(&session.user_id, &room_id, is_listed).await?;
    }
    Ok(Json(json!({})))
}
