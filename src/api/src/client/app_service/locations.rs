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

use super::{look_up_by_id, look_up_in_protocol};
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
    look_up_in_protocol(&app_services, ThirdPartyKind::Locations, &protocol, fields).await
}

pub async fn of_alias(
    State(app_services): State<AppServices>,
    _: User,
    Query(query): Query<ByAlias>,
) -> Result<Json<Vec<JsonValue>>, ApiError> {
    look_up_by_id(&app_services, ThirdPartyKind::Locations, "alias", query.alias).await
}
