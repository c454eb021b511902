//! GET /_matrix/federation/v1/query/profile, GET /_matrix/federation/v1/query/directory, and any other
//! GET /_matrix/federation/v1/query/{queryType}
//!
//! Spec: Server-Server API, Querying for information.

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::Rooms;
use chappe_services::{accounts::Accounts, app_services::client::AppServices, profile::Profiles};
use ruma::api::federation::query::{get_custom_information, get_profile_information, get_room_information};
use serde_json::{Value, json};

use crate::{error::ApiError, extract::Signed};

pub async fn profile(
    State(profiles): State<Arc<Profiles>>,
    State(accounts): State<Arc<Accounts>>,
    State(app_services): State<AppServices>,
    Signed { body, .. }: Signed<get_profile_information::v1::Request>,
) -> Result<Json<Value>, ApiError> {
    if !accounts.is_local(&body.user_id) {
        return Err(ApiError::invalid_param("The user is not of this server"));
    }
    app_services.ensure_user(&body.user_id).await?;
    let Some(mut profile) = profiles.get_local_profile(&body.user_id)? else {
        return Err(ApiError::not_found("Profile not found"));
    };
    if let Some(field) = &body.field {
        profile.retain(|name, _| name == field.as_str());
    }
    Ok(Json(json!(profile)))
}

pub async fn directory(
    State(rooms): State<Rooms>,
    State(app_services): State<AppServices>,
    Signed { body, .. }: Signed<get_room_information::v1::Request>,
) -> Result<Json<Value>, ApiError> {
    app_services.ensure_alias(&body.room_alias).await?;
    let alias = rooms.get_alias(&body.room_alias)?.ok_or_else(|| ApiError::not_found("Room alias not found"))?;
    let room_id = rooms.get_room_id(alias.room)?.ok_or_else(|| ApiError::not_found("Room alias not found"))?;
    Ok(Json(json!({ "room_id": room_id, "servers": rooms.get_joined_servers(alias.room)? })))
}

/// There are no other kinds of query than those above: they are unrecognized, as unknown endpoints are.
pub async fn unknown(_: Signed<get_custom_information::v1::Request>) -> ApiError {
    ApiError::unrecognized_path()
}
