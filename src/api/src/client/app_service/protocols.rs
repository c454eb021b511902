//! GET /_matrix/client/v3/thirdparty/protocols and GET /_matrix/client/v3/thirdparty/protocol/{protocol} (client-server API,
//! "Third-party Lookups").

use axum::{Json, extract::State};
use chappe_services::app_services::client::AppServices;
use serde_json::{Map, Value as JsonValue};

use crate::{
    error::ApiError,
    extract::{PathParams, User},
};

pub async fn all(State(app_services): State<AppServices>, _: User) -> Json<Map<String, JsonValue>> {
    Json(app_services.fetch_protocols().await)
}

pub async fn one(
    State(app_services): State<AppServices>,
    _: User,
    PathParams(protocol): PathParams<String>,
) -> Result<Json<JsonValue>, ApiError> {
    let described = app_services.fetch_protocol(&protocol).await;
    described.map(Json).ok_or_else(super::no_such_protocol)
}
