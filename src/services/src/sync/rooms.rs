//! Which rooms are in an answer, and in which part of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chappe_rooms::{Event, Room, Rooms, remote::InviteVerdict, state::EMPTY};
use chappe_store::{
    Direction, Position, RoomNid, Stamped, StoreError,
    tables::rooms::{MEMBERSHIP_LOG, MemberRecord},
};
use ruma::{OwnedRoomId, OwnedUserId, UserId};

use super::{
    SyncError, View,
    joined::Scope,
    response::{Events, InvitedRoom, JoinedRoom, KnockedRoom, RoomsSection},
    state::{is_joined_at, member_at, root_at},
    waiters::Activity,
};
use crate::account_data::AccountDataItem;

/// What was found out about rooms besides their part of the answer.
#[derive(Default)]
pub(super) struct Found {
    /// In order of their numbers.
    pub(super) joined: Vec<RoomNid>,
    /// The joined rooms in which something may have happened.
    pub(super) active: Vec<RoomNid>,
    /// Users of whom the client has not heard before: members of rooms that it joined, and those who joined its rooms.
    pub(super) newly_seen: BTreeSet<OwnedUserId>,
}

/// A user's membership in a room as of the upper bound of a reading.
pub(crate) struct Membership {
    pub(crate) membership: String,
    pub(crate) event: Option<Arc<Event>>,
    pub(crate) sender: OwnedUserId,
}

/// Account data of rooms by room.
pub(super) type RoomAccountData = HashMap<OwnedRoomId, Vec<AccountDataItem>>;

/// What is to be told of rooms, before the joined ones are read.
#[derive(Default)]
pub(super) struct Outline {
    /// The rooms that the user is not joined to.
    pub(super) section: RoomsSection,
    pub(super) found: Found,
    /// The joined rooms that there may be something to tell of.
    pub(super) candidates: BTreeSet<RoomNid>,
    /// The changes of the user's own memberships.
    changes: BTreeMap<RoomNid, Vec<Position>>,
}

/// The changes of a user's membership in each room, in order, after one position and up to another.
pub fn scan_membership_changes(
    rooms: &Rooms,
    user: &UserId,
    from: Position,
    to: Position,
) -> Result<BTreeMap<RoomNid, Vec<Position>>, StoreError> {
    let mut changes: BTreeMap<RoomNid, Vec<Position>> = BTreeMap::new();
    let (start, end) = ((user.to_owned(), from.next()), (user.to_owned(), to.next()));
    for row in rooms.store().scan_range(&MEMBERSHIP_LOG, &start, &end, Direction::Forward) {
        let ((_, position), room) = row?;
        changes.entry(room).or_default().push(position);
    }
    Ok(changes)
}

/// A user's membership as of a position: one that changed later is taken as it was before.
pub(crate) fn membership_as_of(
    rooms: &Rooms,
    user: &UserId,
    room: RoomNid,
    member: Stamped<MemberRecord>,
    to: Position,
) -> Result<Option<Membership>, StoreError> {
    if member.position <= to {
        let event = member.value.event.map(|nid| rooms.get_event_by_nid(nid)).transpose()?.flatten();
        return Ok(Some(Membership { membership: member.value.membership, event, sender: member.value.sender }));
    }
    let before = member_at(rooms, room, root_at(rooms, room, to)?, user)?;
    Ok(before.and_then(|event| {
        let membership = event.pdu.membership()?.to_string();
        Some(Membership { membership, sender: event.pdu.sender.clone(), event: Some(event) })
    }))
}

impl View<'_> {
    /// Everything about rooms.
    pub(super) fn read_rooms(&self, room_data: &RoomAccountData) -> Result<(RoomsSection, Found), SyncError> {
        let mut outline = self.read_outline(room_data)?;
        for nid in std::mem::take(&mut outline.candidates) {
            if let Some((room_id, part)) = self.read_candidate(nid, &mut outline, room_data)? {
                outline.section.join.insert(room_id, part);
            }
        }
        Ok((outline.section, outline.found))
    }

    /// Everything about rooms but the parts of joined ones.
    pub(super) fn read_outline(&self, room_data: &RoomAccountData) -> Result<Outline, SyncError> {
        let user = &self.request.user_id;
        let (mut section, mut found) = (RoomsSection::default(), Found::default());
        let changes = match (self.since, self.user_activity()) {
            (None, _) | (_, Activity::None) => BTreeMap::new(),
            (Some(_), Activity::Possible) => scan_membership_changes(&self.sources.rooms, user, self.from(), self.to)?,
        };
        let unchanged = match self.since.is_some() && changes.is_empty() {
            true => self.sources.joined_rooms.get_as_of(user, self.to)?,
            false => None,
        };
        let rows = unchanged.is_none().then(|| self.sources.rooms.scan_user_rooms(user));
        found.joined.extend(unchanged.iter().flat_map(|rooms| rooms.iter()));
        for row in rows.into_iter().flatten() {
            let (nid, member) = row?;
            // Of most rooms the row says enough: no event is read.
            let is_news = self.since.is_none() || changes.contains_key(&nid);
            if member.position <= self.to && member.value.membership == "join" {
                found.joined.push(nid);
                continue;
            }
            if member.position <= self.to && !is_news {
                continue;
            }
            let Some(membership) = membership_as_of(&self.sources.rooms, user, nid, member, self.to)? else { continue };
            match membership.membership.as_str() {
                "join" => found.joined.push(nid),
                _ if !is_news => {}
                other => self.read_outside(&mut section, nid, other, &membership, room_data)?,
            }
        }
        let candidates = self.candidates(&changes, room_data, &mut found)?;
        Ok(Outline { section, found, candidates, changes })
    }

    /// A joined room's part of the answer, if there is anything to tell.
    pub(super) fn read_candidate(
        &self,
        nid: RoomNid,
        outline: &mut Outline,
        room_data: &RoomAccountData,
    ) -> Result<Option<(OwnedRoomId, JoinedRoom)>, SyncError> {
        let Some(room) = self.sources.rooms.get_room_by_nid(nid)? else { return Ok(None) };
        if !self.filter.admits_room(&room.id) || self.is_hidden(&room)? {
            return Ok(None);
        }
        let scope = self.scope(&room, outline.changes.get(&nid))?;
        let part = self.read_joined(&room, scope, room_data.get(&room.id), &mut outline.found.newly_seen)?;
        Ok(part.map(|part| (room.id, part)))
    }

    /// The joined rooms that there may be something to tell of.
    fn candidates(
        &self,
        changes: &BTreeMap<RoomNid, Vec<Position>>,
        room_data: &RoomAccountData,
        found: &mut Found,
    ) -> Result<BTreeSet<RoomNid>, StoreError> {
        let Some(since) = self.since else { return Ok(found.joined.iter().copied().collect()) };
        let mut candidates = self.sources.waiters.active_rooms(found.joined.iter().copied(), since.position);
        found.active = candidates.iter().copied().collect();
        if self.request.full_state {
            return Ok(found.joined.iter().copied().collect());
        }
        let is_joined = |room: &RoomNid| found.joined.binary_search(room).is_ok();
        let mut add = |rooms: Vec<RoomNid>| candidates.extend(rooms.into_iter().filter(is_joined));
        add(changes.keys().copied().collect());
        add(self.sources.typing.rooms_changed_since(since.typing));
        if self.user_activity() == Activity::Possible {
            // A private receipt is news for its user, not for the room.
            add(self.sources.receipts.scan_rooms_with_private(&self.request.user_id, since.position, self.to)?);
        }
        for room_id in room_data.keys() {
            add(self.sources.rooms.get_room_nid(room_id)?.into_iter().collect());
        }
        Ok(candidates)
    }

    /// How much of a joined room the client is told.
    fn scope(&self, room: &Room, changes: Option<&Vec<Position>>) -> Result<Scope, StoreError> {
        let Some(since) = self.since else { return Ok(Scope::initial()) };
        let known = root_at(&self.sources.rooms, room.nid, since.position)?;
        if !self.was_joined_throughout(room.nid, since.position, changes)? {
            return Ok(Scope::newly_joined());
        }
        let is_completed = self
            .sources
            .rooms
            .get_resync(room.nid)?
            .is_some_and(|resync| since.position < resync.position && resync.position <= self.to);
        if is_completed && !self.filter.lazy_load.is_on() {
            // The client has not been shown the room before all of its members were known.
            return Ok(Scope::newly_joined());
        }
        Ok(Scope {
            skips_new_members: is_completed,
            timeline_from: since.position,
            other_from: if self.request.full_state { Position::ZERO } else { since.position },
            state_from: if self.request.full_state { EMPTY } else { known },
            is_newly_joined: false,
        })
    }

    /// Rooms whose members are not all known are shown only to clients that do not ask for all members.
    fn is_hidden(&self, room: &Room) -> Result<bool, StoreError> {
        Ok(!self.filter.lazy_load.is_on() && self.sources.rooms.is_partial_at(room, self.to)?)
    }

    /// Whether the user was joined at a position, and at each change of the membership since.
    pub(super) fn was_joined_throughout(
        &self,
        room: RoomNid,
        from: Position,
        changes: Option<&Vec<Position>>,
    ) -> Result<bool, StoreError> {
        let Some(changes) = changes else { return Ok(true) };
        for position in std::iter::once(&from).chain(changes) {
            let root = root_at(&self.sources.rooms, room, *position)?;
            if !is_joined_at(&self.sources.rooms, room, root, &self.request.user_id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A room that the user is not joined to.
    fn read_outside(
        &self,
        section: &mut RoomsSection,
        nid: RoomNid,
        membership: &str,
        member: &Membership,
        room_data: &RoomAccountData,
    ) -> Result<(), SyncError> {
        let Some(room_id) = self.sources.rooms.get_room_id(nid)? else { return Ok(()) };
        if !self.filter.admits_room(&room_id) {
            return Ok(());
        }
        match membership {
            "invite" if self.ignored.contains(&member.sender) => {}
            "invite" if self.invites.verdict(&member.sender) != InviteVerdict::Allow => {}
            "invite" => {
                let invite_state = Events { events: self.read_stripped(nid, member)? };
                section.invite.insert(room_id, InvitedRoom { invite_state });
            }
            "knock" => {
                let knock_state = Events { events: self.read_stripped(nid, member)? };
                section.knock.insert(room_id, KnockedRoom { knock_state });
            }
            _ => {
                // A room that the user did not leave by themselves is told of: somebody took them out of it.
                let has_left = membership == "leave" && member.sender == self.request.user_id;
                let is_hidden = || {
                    Ok::<_, StoreError>(
                        (has_left && !self.filter.include_leave)
                            || self.sources.rooms.is_forgotten(&self.request.user_id, nid)?,
                    )
                };
                if self.since.is_none() && is_hidden()? {
                    return Ok(());
                }
                if let Some(left) = self.read_left(nid, &room_id, member, room_data.get(&room_id))? {
                    section.leave.insert(room_id, left);
                }
            }
        }
        Ok(())
    }
}
