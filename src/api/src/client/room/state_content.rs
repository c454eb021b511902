//! What this server asks of the content of some state events of its own users, beyond the rules of rooms.

use std::collections::BTreeSet;

use chappe_protocol::acl::ServerAcl;
use chappe_rooms::Rooms;
use chappe_services::directory::Directory;
use http::StatusCode;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, RoomAliasId, RoomId, UserId, api::error::ErrorCode,
    events::StateEventType,
};
use serde_json::Value as JsonValue;

use crate::error::ApiError;

/// Refuses content that would do harm or lead nowhere.
pub(in crate::client) async fn check_content(
    rooms: &Rooms,
    directory: &Directory,
    room_id: &RoomId,
    event_type: &StateEventType,
    state_key: &str,
    content: &CanonicalJsonObject,
) -> Result<(), ApiError> {
    if !state_key.is_empty() {
        return Ok(());
    }
    match event_type {
        StateEventType::RoomCanonicalAlias => check_canonical_alias(rooms, directory, room_id, content).await,
        StateEventType::RoomPowerLevels => check_power_levels(content),
        StateEventType::RoomServerAcl => check_server_acl(rooms, content),
        _ => Ok(()),
    }
}

/// Aliases that were not named before must exist and mean this room.
///
/// Spec: Client-Server API, `PUT /rooms/{roomId}/state/{eventType}/{stateKey}`, the notes on `m.room.canonical_alias`.
async fn check_canonical_alias(
    rooms: &Rooms,
    directory: &Directory,
    room_id: &RoomId,
    content: &CanonicalJsonObject,
) -> Result<(), ApiError> {
    let wanted = aliases_of(content)?;
    let room = rooms.require_room(room_id)?;
    let before = rooms.get_state_content::<CanonicalJsonObject>(room.nid, &StateEventType::RoomCanonicalAlias, "")?;
    let before = before.and_then(|content| aliases_of(&content).ok()).unwrap_or_default();
    let bad_alias = |message: String| ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::BadAlias, message);
    for alias in wanted.difference(&before) {
        let resolved = directory.resolve_alias(alias).await.map_err(|error| {
            tracing::debug!(%error, alias = %alias, "alias could not be looked up");
            bad_alias(format!("{alias} could not be looked up"))
        })?;
        match resolved {
            None => return Err(bad_alias(format!("{alias} does not exist"))),
            Some(resolved) if resolved.room_id != room_id => {
                return Err(bad_alias(format!("{alias} does not mean this room")));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn aliases_of(content: &CanonicalJsonObject) -> Result<BTreeSet<OwnedRoomAliasId>, ApiError> {
    let parse = |value: &CanonicalJsonValue| {
        let alias = value.as_str().and_then(|alias| RoomAliasId::parse(alias).ok());
        alias.ok_or_else(|| ApiError::invalid_param("Not a room alias"))
    };
    let mut aliases = BTreeSet::new();
    match content.get("alias") {
        None | Some(CanonicalJsonValue::Null) => {}
        // Clients take an alias away by an empty one.
        Some(CanonicalJsonValue::String(alias)) if alias.is_empty() => {}
        Some(alias) => {
            aliases.insert(parse(alias)?);
        }
    }
    match content.get("alt_aliases") {
        None | Some(CanonicalJsonValue::Null) => {}
        Some(CanonicalJsonValue::Array(others)) => {
            for alias in others {
                aliases.insert(parse(alias)?);
            }
        }
        Some(_) => return Err(ApiError::invalid_param("alt_aliases is not a list of room aliases")),
    }
    Ok(aliases)
}

/// In older room versions levels may be strings; no new ones are made here.
fn check_power_levels(content: &CanonicalJsonObject) -> Result<(), ApiError> {
    let is_level = |value: &CanonicalJsonValue| matches!(value, CanonicalJsonValue::Integer(_));
    for field in ["ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"] {
        if content.get(field).is_some_and(|value| !is_level(value)) {
            return Err(ApiError::bad_json(format!("{field} is not an integer")));
        }
    }
    for field in ["events", "notifications", "users"] {
        match content.get(field) {
            None => {}
            Some(CanonicalJsonValue::Object(levels))
                if field == "users" && levels.keys().any(|user| UserId::parse(user).is_err()) =>
            {
                return Err(ApiError::bad_json("users holds something that is no user id"));
            }
            Some(CanonicalJsonValue::Object(levels)) if levels.values().all(is_level) => {}
            Some(_) => return Err(ApiError::bad_json(format!("{field} is not an object of integers"))),
        }
    }
    Ok(())
}

/// A list that shuts this server out could not be taken back from here.
fn check_server_acl(rooms: &Rooms, content: &CanonicalJsonObject) -> Result<(), ApiError> {
    let content: JsonValue = CanonicalJsonValue::Object(content.clone()).into();
    if ServerAcl::from_content(&content).allows(rooms.server_name()) {
        Ok(())
    } else {
        Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, "The access list would shut out this server"))
    }
}
