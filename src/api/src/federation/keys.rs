//! GET /_matrix/key/v2/server, and the notary: GET /_matrix/key/v2/query/{serverName}, POST /_matrix/key/v2/query
//!
//! Spec: Server-Server API, Retrieving server keys.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use chappe_services::federation::keys::{NotaryCriteria, ServerKeys};
use ruma::api::federation::discovery::{get_remote_server_keys, get_remote_server_keys_batch};
use serde_json::{Value, json};

use crate::{error::ApiError, extract::Ruma};

/// This server's own keys, as the very bytes that are signed.
pub async fn server(State(keys): State<Arc<ServerKeys>>) -> Result<Response, ApiError> {
    let document = keys.own_document().map_err(ApiError::internal)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], document).into_response())
}

pub async fn query(
    State(keys): State<Arc<ServerKeys>>,
    Ruma(request): Ruma<get_remote_server_keys::v2::Request>,
) -> Json<Value> {
    let criteria =
        NotaryCriteria { valid_until_ms: request.minimum_valid_until_ts.get().into(), ..NotaryCriteria::default() };
    let answer = keys.query_notary(BTreeMap::from([(request.server_name, criteria)])).await;
    Json(json!({ "server_keys": answer }))
}

pub async fn query_batch(
    State(keys): State<Arc<ServerKeys>>,
    Ruma(request): Ruma<get_remote_server_keys_batch::v2::Request>,
) -> Json<Value> {
    let wanted = request.server_keys.into_iter().map(|(server, criteria)| {
        let until = |criteria: get_remote_server_keys_batch::v2::QueryCriteria| {
            criteria.minimum_valid_until_ts.map_or(0, |ts| ts.get().into())
        };
        let keys = criteria.into_iter().map(|(key_id, criteria)| (key_id, until(criteria))).collect();
        (server, NotaryCriteria { keys, ..NotaryCriteria::default() })
    });
    let answer = keys.query_notary(wanted.collect()).await;
    Json(json!({ "server_keys": answer }))
}
