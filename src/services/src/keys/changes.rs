//! What sync tells a user about the device lists of others: which changed, and which no longer concern the user.
//!
//! Nothing of this is kept for each user: it is derived from the log of changed lists and from the rooms' memberships.
//!
//! Spec: Client-Server API, Tracking the device list for a user.

use std::collections::{BTreeSet, HashMap, HashSet};

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

use super::sharing::{JOIN, is_in_any, joined_members, joined_rooms};

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
    #[serde(default)]
    content: MemberContent,
}

#[derive(Default, Deserialize)]
struct MemberContent {
    membership: Option<String>,
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
    pub fn changed_between(
        &self,
        user: &UserId,
        from: Position,
        to: Position,
    ) -> Result<DeviceListChanges, StoreError> {
        let rooms = joined_rooms(&self.store, user)?;
        self.changed_with(user, from, to, &rooms, &rooms)
    }

    /// The same for who knows already in which of the user's rooms anything happened in the interval: the others are not looked
    /// into. `joined` are the user's joined rooms.
    pub fn changed_with(
        &self,
        user: &UserId,
        from: Position,
        to: Position,
        joined: &[RoomNid],
        active: &[RoomNid],
    ) -> Result<DeviceListChanges, StoreError> {
        if from >= to {
            return Ok(DeviceListChanges::default());
        }
        let (mut changed, mut gone) = (BTreeSet::new(), BTreeSet::new());

        for row in self.store.scan_range(&DEVICE_LIST_LOG, &from.next(), &to.next(), Direction::Forward) {
            let (_, other) = row?;
            if other == user || is_in_any(&self.store, &other, joined)? {
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
            if joined.contains(room) { changed.extend(members) } else { gone.extend(members) }
        }
        for room in active.iter().filter(|room| joined.contains(room)) {
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
            if other != user && !is_in_any(&self.store, &other, joined)? {
                left.insert(other);
            }
        }
        changed.retain(|other| !left.contains(other));
        Ok(DeviceListChanges { changed, left })
    }

    /// The rooms that the user joined or left, now joined to them or not.
    fn own_membership_changes(
        &self,
        user: &UserId,
        from: Position,
        to: Position,
    ) -> Result<HashSet<RoomNid>, StoreError> {
        let mut moves: HashMap<RoomNid, usize> = HashMap::new();
        let log = self.store.scan_range(
            &MEMBERSHIP_LOG,
            &(user.to_owned(), from.next()),
            &(user.to_owned(), to.next()),
            Direction::Forward,
        );
        for row in log {
            *moves.entry(row?.1).or_default() += 1;
        }
        let mut rooms = HashSet::new();
        for (room, moves) in moves {
            let member = self.store.get(&USER_ROOMS, &(user.to_owned(), room))?;
            let is_joined = member.is_some_and(|member| member.value.membership == JOIN);
            // One change from joined to joined is a change of the user's name or picture.
            let was_joined = self.was_joined(user, room, from)?;
            if is_joined != was_joined || (is_joined && moves > 1) {
                rooms.insert(room);
            }
        }
        Ok(rooms)
    }

    /// Whether the user was joined to a room at an earlier position.
    fn was_joined(&self, user: &UserId, room: RoomNid, at: Position) -> Result<bool, StoreError> {
        let before = self.store.scan_range(
            &MEMBERSHIP_LOG,
            &(user.to_owned(), Position::ZERO),
            &(user.to_owned(), at.next()),
            Direction::Reverse,
        );
        for row in before {
            let ((_, position), moved_in) = row?;
            if moved_in != room {
                continue;
            }
            let Some(event) = self.store.get(&TIMELINE, &(room, position))? else { return Ok(false) };
            let json = self.store.get(&EVENT_JSON, &event)?.unwrap_or_default();
            let event = serde_json::from_str::<MemberEvent>(&json);
            return Ok(event.is_ok_and(|event| event.content.membership.as_deref() == Some(JOIN)));
        }
        Ok(false)
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
            if let Ok(MemberEvent { event_type, state_key: Some(member), .. }) = serde_json::from_str(&json)
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
