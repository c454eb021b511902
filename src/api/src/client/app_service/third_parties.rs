//! GET /_matrix/client/v3/thirdparty/location/{protocol}, GET /_matrix/client/v3/thirdparty/location, and the same of `user`
//! (client-server API, "Third-party Lookups").

use axum::{
    Json,
    extract::{Query, State},
};
use chappe_services::app_services::client::{AppServices, ThirdPartyKind};
use ruma::{IdParseError, OwnedRoomAliasId, OwnedUserId};
use serde_json::Value as JsonValue;

use crate::{
    error::ApiError,
    extract::{PathParams, User},
};

/// What is looked up in networks of third parties.
pub trait ThirdParties {
    const KIND: ThirdPartyKind;
    /// The field that holds the Matrix id of one of them.
    const ID_FIELD: &'static str;

    fn check_id(id: &str) -> Result<(), IdParseError>;
}

pub struct Locations;

impl ThirdParties for Locations {
    const KIND: ThirdPartyKind = ThirdPartyKind::Locations;
    const ID_FIELD: &'static str = "alias";

    fn check_id(id: &str) -> Result<(), IdParseError> {
        OwnedRoomAliasId::try_from(id).map(drop)
    }
}

pub struct Users;

impl ThirdParties for Users {
    const KIND: ThirdPartyKind = ThirdPartyKind::Users;
    const ID_FIELD: &'static str = "userid";

    fn check_id(id: &str) -> Result<(), IdParseError> {
        OwnedUserId::try_from(id).map(drop)
    }
}

/// What services know of a protocol's third parties, by the fields that a client asks with. Its own token may be among those.
pub async fn in_protocol<T: ThirdParties>(
    State(app_services): State<AppServices>,
    _: User,
    PathParams(protocol): PathParams<String>,
    Query(mut fields): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<JsonValue>>, ApiError> {
    if !app_services.is_offered(&protocol) {
        return Err(super::no_such_protocol());
    }
    fields.retain(|(name, _)| name != "access_token");
    Ok(Json(app_services.fetch_third_party(T::KIND, Some(&protocol), &fields).await))
}

/// What services know of the third parties behind a Matrix id.
pub async fn of_id<T: ThirdParties>(
    State(app_services): State<AppServices>,
    _: User,
    Query(mut fields): Query<Vec<(String, String)>>,
) -> Result<Json<Vec<JsonValue>>, ApiError> {
    fields.retain(|(name, _)| name == T::ID_FIELD);
    let Some((name, id)) = fields.pop() else {
        return Err(ApiError::missing_param(format!("The {} is missing", T::ID_FIELD)));
    };
    T::check_id(&id).map_err(|error| ApiError::invalid_param(error.to_string()))?;
    Ok(Json(app_services.fetch_third_party(T::KIND, None, &[(name, id)]).await))
}
