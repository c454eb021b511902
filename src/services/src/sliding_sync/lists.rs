//! The user's rooms, the lists made of them, and which rooms an answer is about.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chappe_store::{Position, RoomNid, StoreError};
use ruma::{OwnedRoomId, events::TimelineEventType};
use serde_json::Value;

use super::{
    Reading,
    facts::{self, RoomFacts},
    request::{ListFilters, ListRequest, TIMELINE_LIMIT_MAX},
    required_state::RequiredState,
    response::ListSection,
};
use crate::sync::rooms::{Membership, membership_as_of};

/// A room that the user has to do with.
pub(super) struct UserRoom {
    pub(super) id: OwnedRoomId,
    pub(super) membership: Membership,
    /// When the membership changed last.
    pub(super) changed_at: Position,
    pub(super) facts: Arc<RoomFacts>,
}

impl UserRoom {
    pub(super) fn is_joined(&self) -> bool {
        self.membership.membership == "join"
    }

    pub(super) fn is_pending(&self) -> bool {
        matches!(self.membership.membership.as_str(), "invite" | "knock")
    }

    /// What rooms are sorted by: greater is newer.
    pub(super) fn bump(&self) -> Position {
        match self.facts.bump {
            Some(bump) if self.is_joined() => bump,
            _ => self.changed_at,
        }
    }
}

/// A room that the client wants to hear of, and how much of it.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) timeline_limit: u32,
    pub(super) required_state: RequiredState,
    /// The lists with a window on it.
    pub(super) lists: BTreeSet<String>,
    pub(super) is_subscribed: bool,
}

impl Wanted {
    fn add(&mut self, timeline_limit: u32, required_state: &[(String, String)]) {
        self.timeline_limit = self.timeline_limit.max(timeline_limit.min(TIMELINE_LIMIT_MAX));
        self.required_state.extend(required_state.iter().cloned());
    }
}

pub(super) type UserRooms = HashMap<RoomNid, UserRoom>;
type ListSections = BTreeMap<String, ListSection>;

impl Reading<'_> {
    /// The rooms that the user is in, is invited to or knocks on; and those that the connection has told of, and the user is no longer in.
    pub(super) fn read_user_rooms(&self) -> Result<UserRooms, StoreError> {
        let (rooms, user) = (&self.sources.rooms, self.user);
        let mut found = UserRooms::new();
        for row in rooms.scan_user_rooms(user) {
            let (nid, member) = row?;
            let changed_at = member.position.min(self.to);
            let membership = if member.position <= self.to && member.value.membership == "join" {
                // The row says enough: no event is read.
                Membership { membership: member.value.membership, event: None, sender: member.value.sender }
            } else {
                match membership_as_of(rooms, user, nid, member, self.to)? {
                    Some(membership) => membership,
                    None => continue,
                }
            };
            let is_listed = match membership.membership.as_str() {
                "join" | "knock" => true,
                "invite" => !self.ignored.contains(&membership.sender),
                _ => self.told.rooms.contains_key(&nid),
            };
            if !is_listed {
                continue;
            }
            let Some(id) = rooms.get_room_id(nid)? else { continue };
            let facts = match membership.membership.as_str() {
                "join" => self.service.facts.get(rooms, &self.sources.waiters, nid)?,
                "invite" | "knock" => Arc::new(facts::read_stripped(rooms, user, nid)?),
                _ => Arc::default(),
            };
            found.insert(nid, UserRoom { id, membership, changed_at, facts });
        }
        Ok(found)
    }

    /// The lists, and the rooms in their windows and subscriptions.
    pub(super) fn read_lists(
        &self,
        rooms: &UserRooms,
    ) -> Result<(ListSections, BTreeMap<RoomNid, Wanted>), StoreError> {
        let mut wanted: BTreeMap<RoomNid, Wanted> = BTreeMap::new();
        let mut sections = BTreeMap::new();
        for (name, list) in &self.request.lists {
            let sorted = self.read_list(rooms, &list.filters)?;
            for nid in windows(&sorted, list) {
                let room = wanted.entry(nid).or_default();
                room.add(list.timeline_limit, &list.required_state);
                room.lists.insert(name.clone());
            }
            sections.insert(name.clone(), ListSection { count: sorted.len() });
        }
        for (room_id, subscription) in &self.request.room_subscriptions {
            let Some(nid) = self.sources.rooms.get_room_nid(room_id)?.filter(|nid| rooms.contains_key(nid)) else {
                continue;
            };
            let room = wanted.entry(nid).or_default();
            room.add(subscription.timeline_limit, &subscription.required_state);
            room.is_subscribed = true;
        }
        // Who was told of a room is told that it is over, whatever the windows.
        for (nid, room) in rooms {
            if !room.is_joined() && !room.is_pending() {
                wanted.entry(*nid).or_default();
            }
        }
        Ok((sections, wanted))
    }

    fn read_list(&self, rooms: &UserRooms, filters: &ListFilters) -> Result<Vec<RoomNid>, StoreError> {
        let in_spaces = match &filters.spaces {
            Some(spaces) => Some(self.read_children(rooms, spaces)?),
            None => None,
        };
        let mut listed = Vec::new();
        for (nid, room) in rooms.iter().filter(|(_, room)| room.is_joined() || room.is_pending()) {
            let is_in_space = in_spaces.as_ref().is_none_or(|children| children.contains(&room.id));
            if is_in_space && self.matches(room, filters)? {
                listed.push((Reverse(room.bump()), *nid));
            }
        }
        listed.sort_unstable();
        Ok(listed.into_iter().map(|(_, nid)| nid).collect())
    }

    fn matches(&self, room: &UserRoom, filters: &ListFilters) -> Result<bool, StoreError> {
        let is = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        let facts = &room.facts;
        let is_invite = room.membership.membership == "invite";
        let has_type = |types: &Vec<Option<String>>| types.contains(&facts.room_type);
        let has_name =
            |like: &String| facts.name.as_ref().is_some_and(|name| name.to_lowercase().contains(&like.to_lowercase()));
        let matches = is(filters.is_dm, self.direct.contains(&room.id))
            && is(filters.is_encrypted, facts.is_encrypted)
            && is(filters.is_invite, is_invite)
            && filters.room_types.as_ref().is_none_or(has_type)
            && !filters.not_room_types.as_ref().is_some_and(has_type)
            && filters.room_name_like.as_ref().is_none_or(has_name);
        if !matches || (filters.tags.is_none() && filters.not_tags.is_none()) {
            return Ok(matches);
        }
        let content = self.sources.account_data.get(self.user, Some(&room.id), "m.tag")?;
        let content: Value = content.and_then(|content| serde_json::from_str(&content).ok()).unwrap_or_default();
        let has_tag =
            |tags: &Vec<String>| tags.iter().any(|tag| content.get("tags").is_some_and(|of| of.get(tag).is_some()));
        Ok(filters.tags.as_ref().is_none_or(has_tag) && !filters.not_tags.as_ref().is_some_and(has_tag))
    }

    /// The rooms directly in spaces that the user is in.
    fn read_children(&self, rooms: &UserRooms, spaces: &[OwnedRoomId]) -> Result<HashSet<OwnedRoomId>, StoreError> {
        let mut children = HashSet::new();
        for (nid, _) in rooms.iter().filter(|(_, room)| room.is_joined() && spaces.contains(&room.id)) {
            for event in self.sources.rooms.get_current_state(*nid)? {
                let is_child = event.pdu.kind == TimelineEventType::SpaceChild
                    && event.pdu.get_content::<Value>().is_ok_and(|content| content.get("via").is_some());
                let child = event.pdu.state_key().filter(|_| is_child);
                children.extend(child.and_then(|child| OwnedRoomId::try_from(child).ok()));
            }
        }
        Ok(children)
    }
}

/// The rooms in a list's windows, each once.
fn windows(sorted: &[RoomNid], list: &ListRequest) -> BTreeSet<RoomNid> {
    match &list.ranges {
        Some(ranges) if !list.slow_get_all_rooms => ranges
            .iter()
            .flat_map(|(first, last)| {
                let end = last.saturating_add(1).min(sorted.len());
                sorted.get(*first..end).unwrap_or_default()
            })
            .copied()
            .collect(),
        _ => sorted.iter().copied().collect(),
    }
}
