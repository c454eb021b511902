//! Who may see which event: history visibility over the state stored at each event.

use std::collections::HashMap;

use chappe_protocol::visibility::{
    MembershipAtEvent, ServerStanding, VisibilityAtEvent, is_shared, visible_to_server, visible_to_user,
};
use chappe_store::{EventNid, Position, RoomNid, StateKeyNid, StoreError, tables::events::EventStatus};
use ruma::{
    ServerName, UserId,
    events::{
        StateEventType, TimelineEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use serde::Deserialize;

use crate::{Event, Rooms, state::StateRoot};

#[derive(Deserialize)]
struct VisibilityContent {
    history_visibility: HistoryVisibility,
}

/// Judges many events of one room for one user, remembering what it has read.
pub struct UserEyes<'a> {
    rooms: &'a Rooms,
    room: RoomNid,
    user: &'a UserId,
    membership_now: MembershipState,
    /// Where the user's membership last changed: while joined, everything before is "since".
    changed_at: Position,
    /// The number of the state key of visibility; `None`: no room here has ever had any.
    visibility_key: Option<StateKeyNid>,
    visibilities: HashMap<EventNid, HistoryVisibility>,
    /// The visibility before the event that was judged last.
    last: Option<(StateRoot, HistoryVisibility)>,
    memberships: HashMap<StateRoot, MembershipState>,
}

impl Rooms {
    /// Prepares to judge a room's events for a user.
    pub fn eyes_of<'a>(&'a self, room: RoomNid, user: &'a UserId) -> Result<UserEyes<'a>, StoreError> {
        let member = self.get_member(room, user)?;
        Ok(UserEyes {
            rooms: self,
            room,
            user,
            changed_at: member.as_ref().map_or(Position::ZERO, |member| member.position),
            membership_now: member.map_or(MembershipState::Leave, |member| member.value.membership.into()),
            visibility_key: self.store.interner().get_state_key(
                &self.store,
                &StateEventType::RoomHistoryVisibility,
                "",
            )?,
            visibilities: HashMap::new(),
            last: None,
            memberships: HashMap::new(),
        })
    }

    /// Whether a user may see an event.
    pub fn is_visible_to_user(&self, event: &Event, user: &UserId) -> Result<bool, StoreError> {
        self.eyes_of(event.record.room, user)?.sees(event)
    }

    /// Whether a server may be given an event of a room, by the state at the event.
    ///
    /// Spec: Server-Server API, Backfilling and retrieving missing events.
    pub fn is_visible_to_server(&self, event: &Event, server: &ServerName) -> Result<bool, StoreError> {
        let room = event.record.room;
        let Some(root) = event.record.state_before else { return Ok(false) };
        let visibility = self.visibility_at(room, root)?;
        let joined_since = self.is_server_joined(room, server)?;
        let mut standing = ServerStanding { joined_since, ..ServerStanding::default() };
        let is_limited = !matches!(visibility, HistoryVisibility::Shared | HistoryVisibility::WorldReadable);
        if is_limited || !joined_since {
            for state in [Some(root), event.record.state_after].into_iter().flatten() {
                self.add_standing(room, state, server, &mut standing)?;
            }
        }
        let visibility = VisibilityAtEvent { before: visibility, after: changed_visibility(event) };
        Ok(visible_to_server(&visibility, standing))
    }

    fn add_standing(
        &self,
        room: RoomNid,
        root: StateRoot,
        server: &ServerName,
        standing: &mut ServerStanding,
    ) -> Result<(), StoreError> {
        for member in self.scan_members(room) {
            let (user, _) = member?;
            if user.server_name() != server {
                continue;
            }
            match self.membership_at(room, root, &user)? {
                MembershipState::Join => standing.any_joined = true,
                MembershipState::Invite => standing.any_invited = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn visibility_at(&self, room: RoomNid, root: StateRoot) -> Result<HistoryVisibility, StoreError> {
        let event = self.get_from_root(room, root, &StateEventType::RoomHistoryVisibility, "")?;
        Ok(event
            .and_then(|event| event.pdu.get_content::<VisibilityContent>().ok())
            .map_or(HistoryVisibility::Shared, |content| content.history_visibility))
    }

    pub(crate) fn membership_at(
        &self,
        room: RoomNid,
        root: StateRoot,
        user: &UserId,
    ) -> Result<MembershipState, StoreError> {
        let event = self.get_from_root(room, root, &StateEventType::RoomMember, user.as_str())?;
        Ok(event.and_then(|event| event.pdu.membership()).unwrap_or(MembershipState::Leave))
    }
}

fn sets_visibility(event: &Event) -> bool {
    event.pdu.is_state_event(&TimelineEventType::RoomHistoryVisibility, "")
}

fn changed_visibility(event: &Event) -> Option<HistoryVisibility> {
    sets_visibility(event)
        .then(|| event.pdu.get_content::<VisibilityContent>().ok())
        .flatten()
        .map(|content| content.history_visibility)
}

impl UserEyes<'_> {
    /// Whether the user may see this event of the room.
    ///
    /// Spec: Client-Server API, Room history visibility.
    pub fn sees(&mut self, event: &Event) -> Result<bool, StoreError> {
        if event.record.room != self.room || !event.is_accepted() {
            return Ok(false);
        }
        let Some(root) = event.record.state_before else { return Ok(false) };
        let visibility = self.visibility_before(event, root)?;
        if self.membership_now == MembershipState::Join && is_shared(&visibility) {
            return Ok(true);
        }
        let membership = match self.memberships.get(&root) {
            Some(known) => known.clone(),
            None => {
                let read = self.rooms.membership_at(self.room, root, self.user)?;
                self.memberships.insert(root, read.clone());
                read
            }
        };
        let is_own = matches!(event.pdu.state_tuple(), Some((StateEventType::RoomMember, user)) if user == self.user);
        let after = if is_own { event.pdu.membership() } else { None };
        let joined_since = match self.membership_now {
            MembershipState::Join => true,
            // Joined until then: what came before was seen, or could have been.
            MembershipState::Leave | MembershipState::Ban => self.was_joined_after(event)?,
            _ => false,
        };
        let visibility = VisibilityAtEvent { before: visibility, after: changed_visibility(event) };
        Ok(visible_to_user(&visibility, &MembershipAtEvent { before: membership, after, joined_since }))
    }

    /// Whether the user may see an event that has no place in the room's graph here, as it was fetched by itself.
    ///
    /// The state at the event is not known. What is in force now was in force then if it was set before, by the depth of the events;
    /// nothing else is assumed, and whoever is banned now is not heard.
    pub fn sees_unplaced(&self, event: &Event) -> Result<bool, StoreError> {
        if event.record.room != self.room || event.record.status != EventStatus::Outlier {
            return Ok(false);
        }
        if self.rooms.get_membership(self.room, &event.pdu.sender)? == MembershipState::Ban {
            return Ok(false);
        }
        let set_by = self.rooms.get_state_event(self.room, &StateEventType::RoomHistoryVisibility, "")?;
        if set_by.is_some_and(|set_by| set_by.record.depth >= event.record.depth) {
            return Ok(false);
        }
        Ok(match self.rooms.get_history_visibility(self.room)? {
            HistoryVisibility::WorldReadable => true,
            HistoryVisibility::Shared => self.membership_now == MembershipState::Join,
            _ => false,
        })
    }

    /// The visibility in the state before an event. Events are mostly judged one after the other, forwards or back: where nothing came between two
    /// of them the state says the same.
    fn visibility_before(&mut self, event: &Event, before: StateRoot) -> Result<HistoryVisibility, StoreError> {
        let visibility = match &self.last {
            Some((root, visibility))
                if *root == before || (event.record.state_after == Some(*root) && !sets_visibility(event)) =>
            {
                visibility.clone()
            }
            _ => self.visibility(before)?,
        };
        self.last = Some((before, visibility.clone()));
        Ok(visibility)
    }

    fn visibility(&mut self, root: StateRoot) -> Result<HistoryVisibility, StoreError> {
        let Some(key) = self.visibility_key else { return Ok(HistoryVisibility::Shared) };
        let Some(nid) = self.rooms.trees.get(self.room, root, key)? else { return Ok(HistoryVisibility::Shared) };
        if let Some(known) = self.visibilities.get(&nid) {
            return Ok(known.clone());
        }
        let content =
            self.rooms.get_event_by_nid(nid)?.and_then(|event| event.pdu.get_content::<VisibilityContent>().ok());
        let visibility = content.map_or(HistoryVisibility::Shared, |content| content.history_visibility);
        self.visibilities.insert(nid, visibility.clone());
        Ok(visibility)
    }

    /// Whether a user who is out of the room now was joined at some time after the event.
    fn was_joined_after(&self, event: &Event) -> Result<bool, StoreError> {
        let order = self.rooms.get_event_order(event.nid)?;
        let is_before_change = match order {
            Some(chappe_store::Order::Live(position)) => position < self.changed_at,
            Some(chappe_store::Order::Backfilled(_)) => true,
            None => false,
        };
        if !is_before_change {
            return Ok(false);
        }
        // The state right before the last change tells whether it ended a membership.
        let before = Position(self.changed_at.0.saturating_sub(1));
        let Some(root) = self.rooms.get_state_root_at(self.room, before)? else { return Ok(false) };
        Ok(self.rooms.membership_at(self.room, root, self.user)? == MembershipState::Join)
    }
}
