//! Subscriptions to threads (MSC4306), and what changed of them (MSC4308).
//!
//! Nothing here notifies anyone: push asks [`ThreadSubscriptions::get`] where a rule does.

use std::collections::BTreeMap;

use chappe_rooms::{Event, Room, RoomError, Rooms, relations::relation_of};
use chappe_store::{
    Batch, CommitError, Direction, Domain, Order, Position, RoomNid, Stamped, StoreError, Topic,
    tables::thread_subscriptions::{
        THREAD_SUBSCRIPTION_LOG, THREAD_SUBSCRIPTIONS, ThreadKey, ThreadSubscriptionRecord,
    },
};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, UserId};
use serde::Serialize;

use crate::{guarded::commit_guarded, sync::token::SyncToken};

/// A subscription that was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeSubscriptionError {
    #[error("Thread not found")]
    NotFound,
    /// The event that is to cause a subscription is not in the thread.
    #[error("The event is not in this thread")]
    NotInThread,
    /// The user unsubscribed after the event that is to cause a subscription.
    #[error("The user has unsubscribed from the thread since")]
    Unsubscribed,
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// Changes that could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListChangesError {
    #[error("Invalid pagination token")]
    InvalidToken,
    #[error(transparent)]
    Read(#[from] StoreError),
}

/// The token of the page that ends before a change.
pub(crate) fn page_token(position: Position) -> String {
    format!("s{}", position.0.saturating_sub(1))
}

/// The position of a token; those of sliding sync have the number of an answer before it.
fn position_of_token(token: &str) -> Result<Position, ListChangesError> {
    let stream = token.split_once('-').map_or(token, |(_, stream)| stream);
    Ok(stream.parse::<SyncToken>().map_err(|_| ListChangesError::InvalidToken)?.position)
}

/// A subscription that changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionChange {
    pub room_id: OwnedRoomId,
    pub root: OwnedEventId,
    pub subscription: ThreadSubscriptionRecord,
    pub position: Position,
}

/// Changes by room and thread, as clients are told of them.
///
/// Spec: MSC4308.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SubscriptionSections {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub subscribed: BTreeMap<OwnedRoomId, BTreeMap<OwnedEventId, SubscribedSection>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unsubscribed: BTreeMap<OwnedRoomId, BTreeMap<OwnedEventId, UnsubscribedSection>>,
}

#[derive(Clone, Debug, Serialize)]
pub struct SubscribedSection {
    pub automatic: bool,
    pub bump_stamp: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct UnsubscribedSection {
    pub bump_stamp: u64,
}

impl SubscriptionSections {
    pub fn new(changes: Vec<SubscriptionChange>) -> Self {
        let mut sections = Self::default();
        for SubscriptionChange { room_id, root, subscription, position } in changes {
            let bump_stamp = position.0;
            match subscription {
                ThreadSubscriptionRecord::Subscribed { automatic } => {
                    let of_room = sections.subscribed.entry(room_id).or_default();
                    of_room.insert(root, SubscribedSection { automatic, bump_stamp });
                }
                ThreadSubscriptionRecord::Unsubscribed => {
                    sections.unsubscribed.entry(room_id).or_default().insert(root, UnsubscribedSection { bump_stamp });
                }
            }
        }
        sections
    }

    pub fn is_empty(&self) -> bool {
        self.subscribed.is_empty() && self.unsubscribed.is_empty()
    }
}

/// The thread subscriptions of this server's users.
#[derive(Clone)]
pub struct ThreadSubscriptions {
    rooms: Rooms,
}

impl ThreadSubscriptions {
    pub fn new(rooms: Rooms) -> Self {
        Self { rooms }
    }

    /// How a user is subscribed to a thread: automatically, or not; `None`: not subscribed.
    pub fn get(&self, user: &UserId, room: RoomNid, root: &EventId) -> Result<Option<bool>, StoreError> {
        let row = self.rooms.store().get(&THREAD_SUBSCRIPTIONS, &(user.to_owned(), room, root.to_owned()))?;
        Ok(match row.map(|row| row.value) {
            Some(ThreadSubscriptionRecord::Subscribed { automatic }) => Some(automatic),
            Some(ThreadSubscriptionRecord::Unsubscribed) | None => None,
        })
    }

    /// Whether a user has or had a subscription to any thread.
    pub fn has_any(&self, user: &UserId) -> Result<bool, StoreError> {
        let first = self.rooms.store().scan(&THREAD_SUBSCRIPTIONS, &(user.to_owned(),), Direction::Forward).next();
        Ok(first.transpose()?.is_some())
    }

    /// As [`ThreadSubscriptions::get`], for a thread that the user must be able to see.
    pub fn get_visible(
        &self,
        user: &UserId,
        room_id: &RoomId,
        root: &EventId,
    ) -> Result<Option<bool>, ChangeSubscriptionError> {
        let (room, _) = self.require_visible(user, room_id, root)?;
        Ok(self.get(user, room.nid, root)?)
    }

    /// Subscribes a user to a thread: by the user's will, or, with an event of the thread as its cause, by the client's decision.
    ///
    /// What the user decided is not undone by a client; nor is an unsubscription, by an event from before it.
    pub async fn subscribe(
        &self,
        user: &UserId,
        room_id: &RoomId,
        root: &EventId,
        cause: Option<&EventId>,
    ) -> Result<(), ChangeSubscriptionError> {
        let (room, _) = self.require_visible(user, room_id, root)?;
        let caused_at = match cause {
            Some(cause) => {
                let (_, cause) = self.require_visible(user, room_id, cause)?;
                let is_in_thread = relation_of(&cause.pdu).is_some_and(|relation| {
                    relation.rel_type == chappe_rooms::relations::THREAD && relation.target == root
                });
                if !is_in_thread {
                    return Err(ChangeSubscriptionError::NotInThread);
                }
                Some(self.rooms.get_event_order(cause.nid)?)
            }
            None => None,
        };
        commit_guarded(self.rooms.store(), Domain::Account(user.to_owned()), |batch| {
            let row = self.get_row(user, room.nid, root)?;
            match (row.as_ref().map(|row| (row.position, row.value)), caused_at) {
                (Some((_, ThreadSubscriptionRecord::Subscribed { automatic: false })), _) => return Ok(()),
                (Some((_, ThreadSubscriptionRecord::Subscribed { automatic: true })), Some(_)) => return Ok(()),
                (Some((unsubscribed_at, ThreadSubscriptionRecord::Unsubscribed)), Some(order)) => {
                    // What was fetched from the past was there before.
                    let is_later = matches!(order, Some(Order::Live(position)) if position > unsubscribed_at);
                    if !is_later {
                        return Err(ChangeSubscriptionError::Unsubscribed);
                    }
                }
                _ => {}
            }
            let subscribed = ThreadSubscriptionRecord::Subscribed { automatic: caused_at.is_some() };
            put(batch, user, room.nid, root, row, subscribed);
            Ok(())
        })
        .await
    }

    /// Ends a subscription; does nothing where there is none.
    pub async fn unsubscribe(
        &self,
        user: &UserId,
        room_id: &RoomId,
        root: &EventId,
    ) -> Result<(), ChangeSubscriptionError> {
        let (room, _) = self.require_visible(user, room_id, root)?;
        commit_guarded(self.rooms.store(), Domain::Account(user.to_owned()), |batch| {
            let row = self.get_row(user, room.nid, root)?;
            if row.as_ref().is_some_and(|row| row.value != ThreadSubscriptionRecord::Unsubscribed) {
                put(batch, user, room.nid, root, row, ThreadSubscriptionRecord::Unsubscribed);
            }
            Ok(())
        })
        .await
    }

    /// The subscriptions that changed after `from` and up to `to`, newest first, at most `limit`; and whether there are more.
    pub fn scan_changes(
        &self,
        user: &UserId,
        from: Position,
        to: Position,
        limit: usize,
    ) -> Result<(Vec<SubscriptionChange>, bool), StoreError> {
        let store = self.rooms.store();
        let (start, end) = ((user.to_owned(), from.next()), (user.to_owned(), to.next()));
        let mut changes = Vec::new();
        for row in store.scan_range(&THREAD_SUBSCRIPTION_LOG, &start, &end, Direction::Reverse) {
            let ((_, position), ThreadKey { room, root }) = row?;
            if changes.len() == limit {
                return Ok((changes, true));
            }
            let Some(current) = self.get_row(user, room, &root)?.filter(|row| row.position == position) else {
                continue;
            };
            let Some(room_id) = self.rooms.get_room_id(room)? else { continue };
            changes.push(SubscriptionChange { room_id, root, subscription: current.value, position });
        }
        Ok((changes, false))
    }

    /// A page of changes, from a newer point back to an older one: tokens of `/sync`, of sliding sync, or of the page before. The answer
    /// names where the next page begins, if there is more.
    ///
    /// # Errors
    /// An invalid token.
    pub fn list_changes(
        &self,
        user: &UserId,
        from: Option<&str>,
        to: Option<&str>,
        limit: usize,
    ) -> Result<(SubscriptionSections, Option<String>), ListChangesError> {
        let newer = match from {
            Some(token) => position_of_token(token)?,
            None => self.rooms.store().durable_position(),
        };
        let older = to.map_or(Ok(Position::ZERO), position_of_token)?;
        let (changes, is_limited) = self.scan_changes(user, older, newer, limit)?;
        let end = changes.last().filter(|_| is_limited).map(|last| page_token(last.position));
        Ok((SubscriptionSections::new(changes), end))
    }

    fn get_row(
        &self,
        user: &UserId,
        room: RoomNid,
        root: &EventId,
    ) -> Result<Option<Stamped<ThreadSubscriptionRecord>>, StoreError> {
        self.rooms.store().get(&THREAD_SUBSCRIPTIONS, &(user.to_owned(), room, root.to_owned()))
    }

    fn require_visible(
        &self,
        user: &UserId,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<(Room, std::sync::Arc<Event>), ChangeSubscriptionError> {
        let room = self.rooms.get_room(room_id)?.ok_or(ChangeSubscriptionError::NotFound)?;
        let event = self.rooms.get_visible_event(&room, user, event_id)?.ok_or(ChangeSubscriptionError::NotFound)?;
        Ok((room, event))
    }
}

fn put(
    batch: &mut Batch,
    user: &UserId,
    room: RoomNid,
    root: &EventId,
    before: Option<Stamped<ThreadSubscriptionRecord>>,
    value: ThreadSubscriptionRecord,
) {
    if let Some(before) = before {
        batch.delete(&THREAD_SUBSCRIPTION_LOG, &(user.to_owned(), before.position));
    }
    let position = batch.next_position();
    batch.put(&THREAD_SUBSCRIPTIONS, &(user.to_owned(), room, root.to_owned()), &Stamped { position, value });
    batch.put(&THREAD_SUBSCRIPTION_LOG, &(user.to_owned(), position), &ThreadKey { room, root: root.to_owned() });
    batch.wake(Topic::User(user.to_owned()));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chappe_protocol::clock::ManualClock;
    use chappe_rooms::create::Preset;
    use chappe_store::Store;
    use ruma::user_id;
    use serde_json::json;

    use super::*;
    use crate::test_rooms;

    #[tokio::test]
    async fn unsubscription_holds_against_automatic_subscriptions_for_what_came_before() {
        let store = Store::in_memory();
        let rooms = test_rooms::rooms(&store, Arc::new(ManualClock::new(1_700_000_000_000)));
        let subscriptions = ThreadSubscriptions::new(rooms.clone());
        let alice = user_id!("@alice:here.example");
        let room = test_rooms::create(&rooms, alice, Preset::PrivateChat).await;
        let root = test_rooms::say(&rooms, alice, &room, "root").await;
        let reply = |body: &'static str| {
            let content = json!({ "body": body, "m.relates_to": { "rel_type": "m.thread", "event_id": root } });
            let (rooms, room) = (rooms.clone(), room.clone());
            async move { test_rooms::send(&rooms, alice, &room, "m.room.message", content).await }
        };
        let first = reply("first").await;
        let state = || subscriptions.get_visible(alice, &room, &root).unwrap();
        subscriptions.subscribe(alice, &room, &root, Some(&first)).await.unwrap();
        assert_eq!(state(), Some(true));
        subscriptions.subscribe(alice, &room, &root, None).await.unwrap();
        assert_eq!(state(), Some(false));
        subscriptions.subscribe(alice, &room, &root, Some(&first)).await.unwrap();
        assert_eq!(state(), Some(false), "the user's own will stays");
        subscriptions.unsubscribe(alice, &room, &root).await.unwrap();
        assert_eq!(state(), None);
        let refused = subscriptions.subscribe(alice, &room, &root, Some(&first)).await;
        assert!(matches!(refused, Err(ChangeSubscriptionError::Unsubscribed)));
        let second = reply("second").await;
        subscriptions.subscribe(alice, &room, &root, Some(&second)).await.unwrap();
        assert_eq!(state(), Some(true));
        let refused = subscriptions.subscribe(alice, &room, &first, Some(&second)).await;
        assert!(matches!(refused, Err(ChangeSubscriptionError::NotInThread)));

        let (changes, is_limited) =
            subscriptions.scan_changes(alice, Position::ZERO, store.durable_position(), 10).unwrap();
        assert_eq!((changes.len(), is_limited), (1, false), "only the latest change of each thread is told");
        let (changes, is_limited) =
            subscriptions.scan_changes(alice, Position::ZERO, store.durable_position(), 0).unwrap();
        assert_eq!((changes.len(), is_limited), (0, true));
    }
}
