//! What sync tells a user about the device lists of others: which changed, and which no longer concern the user.
//!
//! Nothing of this is kept for each user: it is derived from the log of changed lists and from the rooms' memberships.
//!
//! Spec: Client-Server API, Tracking the device list for a user.

use std::collections::{BTreeSet, HashSet};

use chappe_store::{
    Direction, Position, RoomNid, Store, StoreError,
    tables::{
        e2ee::{DEVICE_LIST_LOG, SIGNATURE_LOG},
        events::{EVENT_JSON, TIMELINE},
        rooms::{MEMBERS, MEMBERSHIP_LOG, USER_ROOMS},
    },
};
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;

use super::sharing::{is_in_any, joined_members, joined_rooms};

/// With more new events than this in a room its members are gone through instead of its events.
const EVENTS_READ_MAX: usize = 100;

/// The two lists of `device_lists` in a sync answer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct DeviceListChanges {
    pub changed: BTreeSet<OwnedUserId>,
    pub left: BTreeSet<OwnedUserId>,
}

/// Reads device list changes.
#[derive(Clone)]
pub struct DeviceLists {
    store: Store,
}

#[derive(Deserialize)]
struct MemberEvent {
    #[serde(rename = "type")]
    event_type: String,
    state_key: Option<OwnedUserId>,
}

impl DeviceLists {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// What changed for a local user after `from` and up to `to`.
    ///
    /// `changed` holds users in shared rooms whose keys changed and users who came to share a room, the user included; also
    /// those who were invited. `left` holds users who no longer share any room. A user who merely changed their display name
    /// may be among the changed, which costs a client one query.
    pub fn changed_between(&self, user: &UserId, from: Position, to: Position) -> Result<DeviceListChanges, StoreError> {
        if from >= to {
            return Ok(DeviceListChanges::default());
        }
        let rooms = joined_rooms(&self.store, user)?;
        let (mut changed, mut gone) = (BTreeSet::new(), BTreeSet::new());

        for row in self.store.scan_range(&DEVICE_LIST_LOG, &from.next(), &to.next(), Direction::Forward) {
            let (_, other) = row?;
            if other == user || is_in_any(&self.store, &other, &rooms)? {
                changed.insert(other);
            }
        }
        let signed = self.store.scan_range(
            &SIGNATURE_LOG,
            &(user.to_owned(), from.next()),
            &(user.to_owned(), to.next()),
            Direction::Forward,
        );
        for row in signed {
            changed.insert(row?.1);
        }

        let own_changes = self.own_membership_changes(user, from, to)?;
        for room in &own_changes {
            let members = joined_members(&self.store, *room)?;
            if rooms.contains(room) { changed.extend(members) } else { gone.extend(members) }
        }
        for room in &rooms {
            for other in self.moved_members(*room, from, to)? {
                let member = self.store.get(&MEMBERS, &(*room, other.clone()))?;
                match member.as_ref().map(|member| member.value.membership.as_str()) {
                    Some("join" | "invite" | "knock") => changed.insert(other),
                    _ => gone.insert(other),
                };
            }
        }

        let mut left = BTreeSet::new();
        for other in gone {
            if other != user && !is_in_any(&self.store, &other, &rooms)? {
                left.insert(other);
            }
        }
        changed.retain(|other| !left.contains(other));
        Ok(DeviceListChanges { changed, left })
    }

    /// The rooms in which the user's own membership changed to or from joined. Changes of the user's profile are among them.
    fn own_membership_changes(&self, user: &UserId, from: Position, to: Position) -> Result<HashSet<RoomNid>, StoreError> {
        let mut rooms = HashSet::new();
        let log = self.store.scan_range(
            &MEMBERSHIP_LOG,
            &(user.to_owned(), from.next()),
            &(user.to_owned(), to.next()),
            Direction::Forward,
        );
        for row in log {
            let (_, room) = row?;
            let member = self.store.get(&USER_ROOMS, &(user.to_owned(), room))?;
            if member.is_some_and(|member| matches!(member.value.membership.as_str(), "join" | "leave" | "ban")) {
                rooms.insert(room);
            }
        }
        Ok(rooms)
    }

    /// The members of a room whose membership events came in the interval.
    fn moved_members(&self, room: RoomNid, from: Position, to: Position) -> Result<Vec<OwnedUserId>, StoreError> {
        let mut events = Vec::new();
        for row in self.store.scan_range(&TIMELINE, &(room, from.next()), &(room, to.next()), Direction::Forward) {
            events.push(row?.1);
            if events.len() > EVENTS_READ_MAX {
                return self.members_stamped_after(room, from);
            }
        }
        let mut moved = Vec::new();
        for event in events {
            let Some(json) = self.store.get(&EVENT_JSON, &event)? else { continue };
            if !json.contains("m.room.member") {
                continue;
            }
            if let Ok(MemberEvent { event_type, state_key: Some(member) }) = serde_json::from_str(&json)
                && event_type == "m.room.member"
            {
                moved.push(member);
            }
        }
        Ok(moved)
    }

    fn members_stamped_after(&self, room: RoomNid, from: Position) -> Result<Vec<OwnedUserId>, StoreError> {
        let mut moved = Vec::new();
        for row in self.store.scan(&MEMBERS, &(room,), Direction::Forward) {
            let ((_, user), member) = row?;
            if member.position > from {
                moved.push(user);
            }
        }
        Ok(moved)
    }
}
