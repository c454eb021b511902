//! GET /_matrix/client/v3/thirdparty/user/{protocol} and GET /_matrix/client/v3/thirdparty/user (client-server API, "Third-party
//! Lookups").

use axum::{
    Json,
    extract::{Query, State},
};
use chappe_services::app_services::client::{AppServices, ThirdPartyKind};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::Value as JsonValue;

use crate::{
    error::ApiError,
    extract::{PathParams, User},
};

#[derive(Deserialize)]
pub struct ByUser {
    userid: Option<OwnedUserId>,
}

pub async fn in_protocol(
    State(app_services): State<AppServices>,
    _: User,
    PathParams(protocol): PathParams<String>,
    Query(fields): Query<Vec<(String, String)>>,
) -> Json<Vec<JsonValue>> {
    let fields = without_token(fields);
    Json(app_services.fetch_third_party(ThirdPartyKind::Users, Some(&protocol), &fields).await)
}

pub async fn of_user_id(
    State(app_services): State<AppServices>,
    _: User,
    Query(query): Query<ByUser>,
) -> Result<Json<Vec<JsonValue>>, ApiError> {
    let user_id = query.userid.ok_or_else(|| ApiError::missing_param("The userid is missing"))?;
    let fields = [("userid".to_owned(), user_id.to_string())];
    Ok(Json(app_services.fetch_third_party(ThirdPartyKind::Users, None, &fields).await))
}

/// The fields to search by, without the client's own token where it came as one.
pub(super) fn without_token(fields: Vec<(String, String)>) -> Vec<(String, String)> {
    fields.into_iter().filter(|(name, _)| name != "access_token").collect()
}
