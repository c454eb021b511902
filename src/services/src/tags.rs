//! Room tags (client-server API, "Room Tagging"): an account's own order among its rooms, kept as the account data `m.tag`.

use chappe_store::{CommitError, Domain, StoreError};
use ruma::{RoomId, UserId};
use serde_json::{Map, Value};

use crate::{
    account_data::{AccountData, queue_put},
    guarded::commit_guarded,
};

const TYPE: &str = "m.tag";
/// Longest tag, in bytes.
const TAG_BYTES_MAX: usize = 255;
/// How many tags a room may have.
const TAGS_MAX: usize = 100;

/// A tag that was not set.
#[derive(Debug, thiserror::Error)]
pub enum SetTagError {
    #[error("a tag has at most {TAG_BYTES_MAX} bytes")]
    TooLong,
    #[error("a room has at most {TAGS_MAX} tags")]
    TooMany,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// The tags of a room, with what a client keeps beside each.
pub fn get_tags(data: &AccountData, user: &UserId, room: &RoomId) -> Result<Map<String, Value>, StoreError> {
    let content = data.get(user, Some(room), TYPE)?;
    let content: Option<Value> = content.and_then(|content| serde_json::from_str(&content).ok());
    Ok(match content.as_ref().and_then(|content| content.get("tags")) {
        Some(Value::Object(tags)) => tags.clone(),
        _ => Map::new(),
    })
}

/// Sets a tag, or changes what is beside it.
pub async fn set_tag(
    data: &AccountData,
    user: &UserId,
    room: &RoomId,
    tag: &str,
    info: Value,
) -> Result<(), SetTagError> {
    if tag.len() > TAG_BYTES_MAX {
        return Err(SetTagError::TooLong);
    }
    change_tags(data, user, room, |tags| {
        tags.insert(tag.to_owned(), info.clone());
        if tags.len() > TAGS_MAX { Err(SetTagError::TooMany) } else { Ok(true) }
    })
    .await
}

/// Takes a tag away; one that is not there is passed over.
pub async fn delete_tag(data: &AccountData, user: &UserId, room: &RoomId, tag: &str) -> Result<(), SetTagError> {
    change_tags(data, user, room, |tags| Ok(tags.remove(tag).is_some())).await
}

async fn change_tags(
    data: &AccountData,
    user: &UserId,
    room: &RoomId,
    change: impl Fn(&mut Map<String, Value>) -> Result<bool, SetTagError>,
) -> Result<(), SetTagError> {
    commit_guarded(data.store(), Domain::Account(user.to_owned()), |batch| {
        let mut tags = get_tags(data, user, room)?;
        if change(&mut tags)? {
            let content = serde_json::json!({ "tags": tags }).to_string();
            queue_put(data.store(), batch, user, Some(room), TYPE, &content)?;
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use chappe_store::Store;
    use ruma::{room_id, user_id};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn tags_are_set_changed_and_deleted_one_by_one() {
        let data = AccountData::new(Store::in_memory());
        let (alice, room) = (user_id!("@alice:here.example"), room_id!("!room:here.example"));
        set_tag(&data, alice, room, "m.favourite", json!({ "order": 0.5 })).await.unwrap();
        set_tag(&data, alice, room, "u.work", json!({})).await.unwrap();
        set_tag(&data, alice, room, "m.favourite", json!({ "order": 0.1 })).await.unwrap();
        delete_tag(&data, alice, room, "u.work").await.unwrap();
        delete_tag(&data, alice, room, "u.never").await.unwrap();
        let expected = json!({ "m.favourite": { "order": 0.1 } });
        assert_eq!(Value::Object(get_tags(&data, alice, room).unwrap()), expected);
        let stored = data.get(alice, Some(room), TYPE).unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&stored).unwrap(), json!({ "tags": expected }));
    }

    #[tokio::test]
    async fn tags_are_bounded_in_length_and_number() {
        let data = AccountData::new(Store::in_memory());
        let (alice, room) = (user_id!("@alice:here.example"), room_id!("!room:here.example"));
        let long = "u".repeat(TAG_BYTES_MAX + 1);
        assert!(matches!(set_tag(&data, alice, room, &long, json!({})).await, Err(SetTagError::TooLong)));
        for n in 0..TAGS_MAX {
            set_tag(&data, alice, room, &format!("u.{n}"), json!({})).await.unwrap();
        }
        assert!(matches!(set_tag(&data, alice, room, "u.more", json!({})).await, Err(SetTagError::TooMany)));
    }
}
