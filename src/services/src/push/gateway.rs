//! What push gateways are told: the body of `POST /_matrix/push/v1/notify`, and carrying it there.
//!
//! Spec: Push Gateway API.

use std::time::Duration;

use bytes::Bytes;
use chappe_rooms::{Event, Room, Rooms};
use chappe_store::{StoreError, tables::push::PusherRecord};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, header};
use ruma::{
    UserId,
    events::{StateEventType, TimelineEventType},
    push::Action,
};
use serde_json::{Map, Value, json};
use url::Url;

use super::{evaluate::get_display_name, pushers::PusherKey};
use crate::connector::{Connector, Request};

/// How long a gateway may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why a gateway was not told.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct GatewayError(pub String);

/// What carries notifications to gateways: the connector, or a test.
pub trait Gateway: Send + Sync + 'static {
    /// Answers with the pushkeys that the gateway rejects.
    fn notify(&self, url: Url, body: Value) -> BoxFuture<'_, Result<Vec<String>, GatewayError>>;
}

impl Gateway for Connector {
    fn notify(&self, url: Url, body: Value) -> BoxFuture<'_, Result<Vec<String>, GatewayError>> {
        #[derive(Default, serde::Deserialize)]
        struct Answer {
            #[serde(default)]
            rejected: Vec<String>,
        }
        Box::pin(async move {
            let mut request = Request::new(Method::POST, url);
            request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            request.body = Some(Bytes::from(body.to_string()));
            request.timeout = Some(TIMEOUT);
            let answer = self.fetch_capped(request, ANSWER_BYTES_MAX).await;
            let answer = answer.map_err(|error| GatewayError(error.to_string()))?;
            if !answer.status.is_success() {
                return Err(GatewayError(format!("status {}", answer.status.as_u16())));
            }
            Ok(serde_json::from_slice::<Answer>(&answer.body).unwrap_or_default().rejected)
        })
    }
}

/// The body that tells of nothing but how much is unread.
pub fn badge_body(key: &PusherKey, record: &PusherRecord, badge: u64) -> Value {
    let mut notification = Map::new();
    notification.insert("prio".to_owned(), "low".into());
    notification.insert("counts".to_owned(), counts(badge));
    notification.insert("devices".to_owned(), json!([device(key, record, None)]));
    json!({ "notification": notification })
}

/// The body that tells of an event.
pub fn event_body(
    rooms: &Rooms,
    room: Option<&Room>,
    event: &Event,
    actions: &[Action],
    (key, record): (&PusherKey, &PusherRecord),
    badge: u64,
) -> Result<Value, StoreError> {
    let pdu = &event.pdu;
    let tweaks = tweaks(actions);
    let mut notification = Map::new();
    notification.insert("event_id".to_owned(), pdu.event_id.as_str().into());
    notification.insert("room_id".to_owned(), pdu.room_id.as_str().into());
    notification.insert("prio".to_owned(), priority(event, &tweaks).into());
    notification.insert("counts".to_owned(), counts(badge));
    let only_id = data(record).get("format").and_then(Value::as_str) == Some("event_id_only");
    if only_id {
        // Nothing of what the user set up for display leaves the server, either.
        notification.insert("devices".to_owned(), json!([device(key, record, None)]));
        return Ok(json!({ "notification": notification }));
    }
    notification.insert("devices".to_owned(), json!([device(key, record, Some(tweaks))]));
    describe(rooms, room, event, &key.user_id, &mut notification)?;
    Ok(json!({ "notification": notification }))
}

/// Says of an event what it is, who sent it and where, as a user sees it. `room`: `None` where the user is only invited.
pub(super) fn describe(
    rooms: &Rooms,
    room: Option<&Room>,
    event: &Event,
    user_id: &UserId,
    notification: &mut Map<String, Value>,
) -> Result<(), StoreError> {
    let pdu = &event.pdu;
    notification.insert("type".to_owned(), pdu.kind.to_string().into());
    notification.insert("sender".to_owned(), pdu.sender.as_str().into());
    if let Ok(content) = pdu.get_content::<Value>() {
        notification.insert("content".to_owned(), content);
    }
    if pdu.is_state_event(&TimelineEventType::RoomMember, user_id.as_str()) {
        notification.insert("user_is_target".to_owned(), true.into());
    }
    if let Some(room) = room {
        insert_some(notification, "sender_display_name", get_display_name(rooms, room, &pdu.sender)?);
        insert_some(notification, "room_name", get_text(rooms, room, &StateEventType::RoomName, "name")?);
        let alias = get_text(rooms, room, &StateEventType::RoomCanonicalAlias, "alias")?;
        insert_some(notification, "room_alias", alias);
    } else {
        insert_stripped(rooms, notification, event, user_id)?;
    }
    Ok(())
}

/// Of a room that the user is only invited to, what came with the invite.
fn insert_stripped(
    rooms: &Rooms,
    notification: &mut Map<String, Value>,
    event: &Event,
    user_id: &UserId,
) -> Result<(), StoreError> {
    for state in rooms.get_stripped_state(user_id, event.record.room)? {
        let text = |field: &str| state.get("content")?.get(field)?.as_str().map(str::to_owned);
        match state.get("type").and_then(Value::as_str) {
            Some("m.room.name") => insert_some(notification, "room_name", text("name")),
            Some("m.room.canonical_alias") => insert_some(notification, "room_alias", text("alias")),
            Some("m.room.member")
                if state.get("state_key").and_then(Value::as_str) == Some(event.pdu.sender.as_str()) =>
            {
                insert_some(notification, "sender_display_name", text("displayname"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn insert_some(notification: &mut Map<String, Value>, field: &str, text: Option<String>) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        notification.insert(field.to_owned(), text.into());
    }
}

fn get_text(
    rooms: &Rooms,
    room: &Room,
    event_type: &StateEventType,
    field: &str,
) -> Result<Option<String>, StoreError> {
    let content: Option<Value> = rooms.get_state_content(room.nid, event_type, "")?;
    Ok(content.and_then(|content| content.get(field)?.as_str().map(str::to_owned)))
}

fn counts(badge: u64) -> Value {
    if badge > 0 { json!({ "unread": badge }) } else { json!({}) }
}

fn data(record: &PusherRecord) -> Map<String, Value> {
    serde_json::from_str(&record.data).unwrap_or_default()
}

fn device(key: &PusherKey, record: &PusherRecord, tweaks: Option<Map<String, Value>>) -> Value {
    let mut data = data(record);
    data.remove("url");
    let mut device = json!({
        "app_id": key.app_id,
        "pushkey": key.pushkey,
        "pushkey_ts": record.set_at_ms / 1000,
        "data": data,
    });
    if let (Some(tweaks), Some(device)) = (tweaks, device.as_object_mut()) {
        device.insert("tweaks".to_owned(), tweaks.into());
    }
    device
}

fn tweaks(actions: &[Action]) -> Map<String, Value> {
    let mut tweaks = Map::new();
    for action in actions {
        let Ok(action) = serde_json::to_value(action) else { continue };
        if let Some(name) = action.get("set_tweak").and_then(Value::as_str) {
            // A highlight without a value is one.
            let value = action.get("value").cloned().unwrap_or(true.into());
            tweaks.insert(name.to_owned(), value);
        }
    }
    tweaks
}

/// What should light up a screen is `high`.
fn priority(event: &Event, tweaks: &Map<String, Value>) -> &'static str {
    let is_highlight = tweaks.get("highlight") == Some(&Value::Bool(true));
    let is_encrypted = event.pdu.kind == TimelineEventType::RoomEncrypted;
    if is_highlight || is_encrypted || tweaks.contains_key("sound") { "high" } else { "low" }
}
