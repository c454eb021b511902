//! Account data: what clients keep with the server for themselves, globally or for one room.
//!
//! Types that the server writes itself (`m.push_rules`, `m.fully_read`) are refused from clients and written by their owners
//! through [`queue_put`]. Push rules are read through [`crate::push::rules`], which completes what is stored with the defaults.
//!
//! Data is deleted by writing `{}` (MSC3391). The row stays, so that clients that sync later learn of it; to everybody else the data is
//! gone.

use std::collections::{BTreeMap, HashSet};

use chappe_store::{
    Batch, CommitError, Direction, Domain, Position, Stamped, Store, StoreError, Topic,
    tables::account_data::{ACCOUNT_DATA, ACCOUNT_DATA_LOG, AccountDataChange},
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::value::RawValue;

use crate::{
    guarded::commit_guarded,
    push::rules::{PUSH_RULES, shown_content},
};

/// Types that clients change only through endpoints of their own (client-server API, "Client Config").
const RESERVED_TYPES: [&str; 2] = ["m.fully_read", PUSH_RULES];

/// Longest type, in bytes.
const TYPE_BYTES_MAX: usize = 255;

/// The content of deleted data.
const DELETED: &str = "{}";

/// Account data that was not written.
#[derive(Debug, thiserror::Error)]
pub enum PutAccountDataError {
    /// The server itself writes this type.
    #[error("account data of this type is managed by the server")]
    Reserved,
    #[error("the type is empty, too long, or holds a control character")]
    InvalidType,
    #[error("account data must be a JSON object")]
    NotAnObject,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// One piece of account data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountDataItem {
    /// `None`: global.
    pub room_id: Option<OwnedRoomId>,
    pub event_type: String,
    /// The content: a JSON object, as text.
    pub content: String,
    /// When it was written.
    pub position: Position,
}

impl AccountDataItem {
    /// Whether this tells of data that is gone.
    pub fn is_deleted(&self) -> bool {
        self.content == DELETED
    }
}

/// The account data of this server's users.
pub struct AccountData {
    store: Store,
}

impl AccountData {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The content of a piece of account data, as JSON text. Without a room: global.
    pub fn get(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        event_type: &str,
    ) -> Result<Option<String>, StoreError> {
        let stored = self.store.get(&ACCOUNT_DATA, &key(user_id, room_id, event_type))?.map(|stored| stored.value);
        if room_id.is_none() && event_type == PUSH_RULES {
            return Ok(Some(shown_content(user_id, stored.as_deref())));
        }
        Ok(stored.filter(|content| content != DELETED))
    }

    /// Writes what a client asks to. An empty object deletes.
    pub async fn put(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        event_type: &str,
        content: &RawValue,
    ) -> Result<(), PutAccountDataError> {
        check_type(event_type)?;
        if !content.get().starts_with('{') {
            return Err(PutAccountDataError::NotAnObject);
        }
        let is_empty = content.get().trim_start_matches('{').trim_start() == "}";
        let content = if is_empty { DELETED } else { content.get() };
        commit_guarded(&self.store, Domain::Account(user_id.to_owned()), |batch| {
            if content == DELETED {
                queue_delete(&self.store, batch, user_id, room_id, event_type)?;
            } else {
                queue_put(&self.store, batch, user_id, room_id, event_type, content)?;
            }
            Ok(())
        })
        .await
    }

    /// Deletes what a client asks to; what does not exist is passed over.
    pub async fn delete(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        event_type: &str,
    ) -> Result<(), PutAccountDataError> {
        check_type(event_type)?;
        commit_guarded(&self.store, Domain::Account(user_id.to_owned()), |batch| {
            Ok(queue_delete(&self.store, batch, user_id, room_id, event_type)?)
        })
        .await
    }

    /// All of a user's global account data, or all for one room; without what was deleted.
    pub fn scan(&self, user_id: &UserId, room_id: Option<&RoomId>) -> Result<Vec<AccountDataItem>, StoreError> {
        let prefix = (user_id.to_owned(), scope(room_id));
        let rows = self.store.scan(&ACCOUNT_DATA, &prefix, Direction::Forward);
        let items = rows.map(|row| {
            let ((_, _, event_type), Stamped { position, value }) = row?;
            Ok(AccountDataItem { room_id: room_id.map(ToOwned::to_owned), event_type, content: value, position })
        });
        items.filter(|item| !item.as_ref().is_ok_and(AccountDataItem::is_deleted)).collect()
    }

    /// Whom a user does not want to hear from.
    ///
    /// Spec: Client-Server API, Ignoring Users.
    pub fn get_ignored_users(&self, user_id: &UserId) -> Result<HashSet<OwnedUserId>, StoreError> {
        Ok(self.get_ignored_users_stamped(user_id)?.value)
    }

    /// The same, stamped with when it was written; with position zero if it never was.
    pub fn get_ignored_users_stamped(&self, user_id: &UserId) -> Result<Stamped<HashSet<OwnedUserId>>, StoreError> {
        #[derive(Default, serde::Deserialize)]
        struct Content {
            #[serde(default)]
            ignored_users: BTreeMap<String, serde_json::Value>,
        }
        let Some(stored) = self.store.get(&ACCOUNT_DATA, &key(user_id, None, "m.ignored_user_list"))? else {
            return Ok(Stamped { position: Position::ZERO, value: HashSet::new() });
        };
        let content: Content = serde_json::from_str(&stored.value).unwrap_or_default();
        let users = content.ignored_users.into_keys().filter_map(|user| OwnedUserId::try_from(user).ok());
        Ok(Stamped { position: stored.position, value: users.filter(|user| user != user_id).collect() })
    }

    /// The account data, global and of all rooms, written after `from` and up to `to`, in the order of writing; of what was
    /// written more than once, the last; with what was deleted.
    pub fn scan_account_data_since(
        &self,
        user_id: &UserId,
        from: Position,
        to: Position,
    ) -> Result<Vec<AccountDataItem>, StoreError> {
        let start = (user_id.to_owned(), from.next());
        let end = (user_id.to_owned(), to.next());
        let mut items = Vec::new();
        for row in self.store.scan_range(&ACCOUNT_DATA_LOG, &start, &end, Direction::Forward) {
            let ((_, position), change) = row?;
            let stored = self.store.get(&ACCOUNT_DATA, &key(user_id, change.room_id.as_deref(), &change.event_type))?;
            // Written again since this scan began: the later row is its place.
            if let Some(Stamped { position: latest, value }) = stored
                && latest == position
            {
                let is_push_rules = change.room_id.is_none() && change.event_type == PUSH_RULES;
                items.push(AccountDataItem {
                    room_id: change.room_id,
                    event_type: change.event_type,
                    content: if is_push_rules { shown_content(user_id, Some(&value)) } else { value },
                    position,
                });
            }
        }
        Ok(items)
    }

    /// All account data, global and of all rooms, written up to `to`, without what was deleted; and the push rules, which every
    /// user has.
    pub fn scan_all_account_data(&self, user_id: &UserId, to: Position) -> Result<Vec<AccountDataItem>, StoreError> {
        let mut items = self.scan_account_data_since(user_id, Position::ZERO, to)?;
        items.retain(|item| !item.is_deleted());
        if !items.iter().any(|item| item.room_id.is_none() && item.event_type == PUSH_RULES) {
            let stored = self.store.get(&ACCOUNT_DATA, &key(user_id, None, PUSH_RULES))?;
            items.push(AccountDataItem {
                room_id: None,
                event_type: PUSH_RULES.to_owned(),
                content: shown_content(user_id, stored.map(|stored| stored.value).as_deref()),
                position: Position::ZERO,
            });
        }
        Ok(items)
    }
}

/// Puts a write of account data into a batch that the user's account guards. `content` is a JSON object as text.
/// Uses one position of the batch.
pub fn queue_put(
    store: &Store,
    batch: &mut Batch,
    user_id: &UserId,
    room_id: Option<&RoomId>,
    event_type: &str,
    content: &str,
) -> Result<(), StoreError> {
    let key = key(user_id, room_id, event_type);
    if let Some(before) = store.get(&ACCOUNT_DATA, &key)? {
        batch.delete(&ACCOUNT_DATA_LOG, &(user_id.to_owned(), before.position));
    }
    let position = batch.next_position();
    batch.put(&ACCOUNT_DATA, &key, &Stamped { position, value: content.to_owned() });
    let change = AccountDataChange { room_id: room_id.map(ToOwned::to_owned), event_type: event_type.to_owned() };
    batch.put(&ACCOUNT_DATA_LOG, &(user_id.to_owned(), position), &change);
    batch.wake(Topic::User(user_id.to_owned()));
    Ok(())
}

/// Puts a deletion of account data into a batch that the user's account guards. Data that does not exist is passed over.
pub fn queue_delete(
    store: &Store,
    batch: &mut Batch,
    user_id: &UserId,
    room_id: Option<&RoomId>,
    event_type: &str,
) -> Result<(), StoreError> {
    match store.get(&ACCOUNT_DATA, &key(user_id, room_id, event_type))? {
        Some(before) if before.value != DELETED => queue_put(store, batch, user_id, room_id, event_type, DELETED),
        _ => Ok(()),
    }
}

fn check_type(event_type: &str) -> Result<(), PutAccountDataError> {
    if RESERVED_TYPES.contains(&event_type) {
        return Err(PutAccountDataError::Reserved);
    }
    if event_type.is_empty() || event_type.len() > TYPE_BYTES_MAX || event_type.chars().any(char::is_control) {
        return Err(PutAccountDataError::InvalidType);
    }
    Ok(())
}

fn scope(room_id: Option<&RoomId>) -> String {
    room_id.map(ToString::to_string).unwrap_or_default()
}

fn key(user_id: &UserId, room_id: Option<&RoomId>, event_type: &str) -> (OwnedUserId, String, String) {
    (user_id.to_owned(), scope(room_id), event_type.to_owned())
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[tokio::test]
    async fn only_the_last_write_shows_in_the_stream() {
        let store = Store::in_memory();
        let (data, alice, room) =
            (AccountData::new(store.clone()), user_id!("@alice:example.org"), room_id!("!room:example.org"));
        data.put(alice, None, "org.example.a", &raw(r#"{"n":1}"#)).await.unwrap();
        let middle = store.durable_position();
        data.put(alice, Some(room), "org.example.a", &raw(r#"{"n":2}"#)).await.unwrap();
        data.put(alice, None, "org.example.a", &raw(r#"{"n":3}"#)).await.unwrap();
        let end = store.durable_position();

        let all = data.scan_account_data_since(alice, Position::ZERO, end).unwrap();
        let contents: Vec<_> = all.iter().map(|item| (item.room_id.as_deref(), item.content.as_str())).collect();
        assert_eq!(contents, [(Some(room), r#"{"n":2}"#), (None, r#"{"n":3}"#)]);
        assert!(data.scan_account_data_since(alice, Position::ZERO, middle).unwrap().is_empty());
        assert!(data.scan_account_data_since(alice, end, end).unwrap().is_empty());
        assert_eq!(data.scan(alice, None).unwrap().len(), 1);
        assert!(data.scan_account_data_since(user_id!("@bob:example.org"), Position::ZERO, end).unwrap().is_empty());
    }

    #[tokio::test]
    async fn deleted_data_is_gone_but_told_to_whoever_knew_it() {
        let store = Store::in_memory();
        let (data, alice) = (AccountData::new(store.clone()), user_id!("@alice:example.org"));
        for (deletion, by_put) in [("org.example.a", true), ("org.example.b", false)] {
            data.put(alice, None, deletion, &raw(r#"{"n":1}"#)).await.unwrap();
            let known = store.durable_position();
            if by_put {
                data.put(alice, None, deletion, &raw("{ }")).await.unwrap();
            } else {
                data.delete(alice, None, deletion).await.unwrap();
            }
            assert_eq!(data.get(alice, None, deletion).unwrap(), None);
            assert_eq!(data.scan(alice, None).unwrap(), []);
            let news = data.scan_account_data_since(alice, known, store.durable_position()).unwrap();
            assert!(news[0].is_deleted() && news[0].event_type == deletion && news.len() == 1);
        }
        let end = store.durable_position();
        data.delete(alice, None, "org.example.a").await.unwrap();
        data.delete(alice, None, "org.example.never").await.unwrap();
        assert_eq!(store.durable_position(), end, "what is not there is not deleted again");
    }

    #[tokio::test]
    async fn types_of_the_server_are_refused() {
        let data = AccountData::new(Store::in_memory());
        let alice = user_id!("@alice:example.org");
        for reserved in ["m.push_rules", "m.fully_read"] {
            assert!(matches!(data.put(alice, None, reserved, &raw("{}")).await, Err(PutAccountDataError::Reserved)));
        }
        assert!(matches!(data.put(alice, None, "a\0b", &raw("{}")).await, Err(PutAccountDataError::InvalidType)));
        assert!(matches!(data.put(alice, None, "a", &raw("[]")).await, Err(PutAccountDataError::NotAnObject)));
    }
}
