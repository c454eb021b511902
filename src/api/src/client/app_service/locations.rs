//! GET /_matrix/client/v3/thirdparty/location/{protocol} and GET /_matrix/client/v3/thirdparty/location (client-server API, "Third-party
//! Lookups").

use axum::{
    Json,
    extract::{Query, State},
};
use chappe_services::app_services::client::{AppServices, ThirdPartyKind};
use ruma::OwnedRoomAliasId;
use serde::Deserialize;
use serde_json::Value as JsonValue;

use crate::{
    error::ApiError,
    extract::{PathParams, User},
};

#[derive(Deserialize)]
pub struct ByAlias {
    alias: Option<OwnedRoomAliasId>,
}

pub async fn in_protocol(
    State(app_services): State<AppServices>,
    _: User,
    PathParams(protocol): PathParams<String>,
    Query(fields): Query<Vec<(String, String)>>,
) -> Json<Vec<JsonValue>> {
    let fields = super::users::without_token(fields);
    Json(app_services.fetch_third_party(ThirdPartyKind::Locations, Some(&protocol), &fields).await)
}

pub async fn of_alias(
    State(app_services): State<AppServices>,
    _: User,
    Query(query): Query<ByAlias>,
) -> Result<Json<Vec<JsonValue>>, ApiError> {
    let alias = query.alias.ok_or_else(|| ApiError::missing_param("The alias is missing"))?;
    let fields = [("alias".to_owned(), alias.to_string())];
    Ok(Json(app_services.fetch_third_party(ThirdPartyKind::Locations, None, &fields).await))
}
