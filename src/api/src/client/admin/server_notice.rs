//! POST /_synapse/admin/v1/send_server_notice and PUT /_synapse/admin/v1/send_server_notice/{txnId}: tells a user something (Synapse's admin
//! API, "Server Notices").

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::send::{canonical_content, transaction};
use chappe_services::{
    accounts::Session,
    server_notices::{Notice, ServerNotices},
};
use ruma::{OwnedDeviceId, OwnedTransactionId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json, value::RawValue as RawJsonValue};

use crate::{
    error::ApiError,
    extract::{Admin, JsonBody, PathParams},
};

pub const PATH: &str = "/_synapse/admin/v1/send_server_notice";
pub const PATH_WITH_TRANSACTION: &str = "/_synapse/admin/v1/send_server_notice/{txn_id}";

#[derive(Deserialize)]
pub struct Body {
    user_id: OwnedUserId,
    content: Box<RawJsonValue>,
    #[serde(rename = "type", default = "message")]
    event_type: String,
    state_key: Option<String>,
}

fn message() -> String {
    "m.room.message".to_owned()
}

pub async fn post(
    State(notices): State<Arc<ServerNotices>>,
    Admin(_): Admin,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<JsonValue>, ApiError> {
    send(&notices, body, None).await
}

pub async fn put(
    State(notices): State<Arc<ServerNotices>>,
    Admin(session): Admin,
    PathParams(txn_id): PathParams<OwnedTransactionId>,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<JsonValue>, ApiError> {
    send(&notices, body, Some((session, txn_id))).await
}

async fn send(
    notices: &ServerNotices,
    body: Body,
    by: Option<(Session, OwnedTransactionId)>,
) -> Result<Json<JsonValue>, ApiError> {
    // The sender has no device: each administrator's transactions are kept apart as if they were one.
    let transaction = by.map(|(session, id)| transaction(&OwnedDeviceId::from(session.user_id.as_str()), &id));
    let content = canonical_content(body.content.get())?;
    let notice = Notice { event_type: body.event_type, state_key: body.state_key, content, transaction };
    let event_id = notices.send(&body.user_id, notice).await?;
    Ok(Json(json!({ "event_id": event_id })))
}
