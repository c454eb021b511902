//! POST /_matrix/client/v3/pushers/set (client-server API, "Push Notifications: Client behaviour").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::push::pushers::{NewPusher, PusherKey, Pushers};
use ruma::api::client::push::set_pusher::v3::Response;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::{
    error::ApiError,
    extract::{JsonBody, RumaResponse, User},
};

/// Read here and not by ruma's type: what is missing is M_MISSING_PARAM, not M_BAD_JSON.
#[derive(Deserialize)]
pub struct Body {
    pushkey: Option<String>,
    app_id: Option<String>,
    /// `null` deletes the pusher.
    #[serde(default, deserialize_with = "present")]
    kind: Option<Option<String>>,
    app_display_name: Option<String>,
    device_display_name: Option<String>,
    profile_tag: Option<String>,
    lang: Option<String>,
    data: Option<Map<String, Value>>,
    #[serde(default)]
    append: bool,
}

/// Tells `null` from nothing at all.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn required<T>(value: Option<T>, name: &'static str) -> Result<T, ApiError> {
    value.ok_or_else(|| ApiError::missing_param(format!("Missing parameter: {name}")))
}

pub async fn handle(
    State(pushers): State<Arc<Pushers>>,
    User(session): User,
    JsonBody(body): JsonBody<Body>,
) -> Result<RumaResponse<Response>, ApiError> {
    let key = PusherKey {
        user_id: session.user_id.clone(),
        app_id: required(body.app_id, "app_id")?,
        pushkey: required(body.pushkey, "pushkey")?,
    };
    let Some(kind) = required(body.kind, "kind")? else {
        pushers.delete(&key).await?;
        return Ok(RumaResponse(Response::new()));
    };
    let new = NewPusher {
        kind,
        app_display_name: required(body.app_display_name, "app_display_name")?,
        device_display_name: required(body.device_display_name, "device_display_name")?,
        profile_tag: body.profile_tag,
        lang: required(body.lang, "lang")?,
        data: required(body.data, "data")?,
        append: body.append,
    };
    pushers.set(key, &session.device_id, new).await?;
    Ok(RumaResponse(Response::new()))
}
