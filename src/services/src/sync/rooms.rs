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
    response::{Events, InvitedRoom, KnockedRoom, RoomsSection},
    state::{is_joined_at, member_at, root_at},
    waiters::Activity,
};
use crate::account_data::AccountDataItem;

/// What was found out about rooms besides their part of the answer.
#[derive(Default)]
pub(super) struct Found {
    pub(super) joined: Vec<RoomNid>,
    /// The joined rooms in which something may have happened.
    pub(super) active: Vec<RoomNid>,
    /// Users of whom the client has not heard before: members of rooms that it joined, and those who joined its rooms.
    pub(super) newly_seen: BTreeSet<OwnedUserId>,
}

/// A user's membership in a room as of the upper bound of a reading.
pub(super) struct Membership {
    pub(super) membership: String,
    pub(super) event: Option<Arc<Event>>,
    pub(super) sender: OwnedUserId,
}

/// Account data of rooms by room.
pub(super) type RoomAccountData<'a> = HashMap<OwnedRoomId, Vec<&'a AccountDataItem>>;

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

impl View<'_> {
    /// Everything about rooms.
    pub(super) fn read_rooms(&self, account_data: &[AccountDataItem]) -> Result<(RoomsSection, Found), SyncError> {
        let user = &self.request.user_id;
        let (mut section, mut found) = (RoomsSection::default(), Found::default());
        let changes = match (self.since, self.user_activity()) {
            (None, _) | (_, Activity::None) => BTreeMap::new(),
            (Some(_), Activity::Possible) => scan_membership_changes(&self.sources.rooms, user, self.from(), self.to)?,
        };
        let mut room_data: RoomAccountData<'_> = HashMap::new();
        for item in account_data {
            if let Some(room_id) = &item.room_id {
                room_data.entry(room_id.clone()).or_default().push(item);
            }
        }
        let mut joined = Vec::new();
        for row in self.sources.rooms.scan_user_rooms(user) {
            let (nid, member) = row?;
            let Some(membership) = self.membership(nid, member)? else { continue };
            match membership.membership.as_str() {
                "join" => joined.push(nid),
                _ if self.since.is_some() && !changes.contains_key(&nid) => {}
                other => self.read_outside(&mut section, nid, other, &membership, &room_data)?,
            }
        }
        let candidates = self.candidates(&joined, &changes, &room_data, &mut found)?;
        for nid in candidates {
            let Some(room) = self.sources.rooms.get_room_by_nid(nid)? else { continue };
            if !self.filter.admits_room(&room.id) || self.is_hidden(&room)? {
                continue;
            }
            let scope = self.scope(&room, changes.get(&nid))?;
            if let Some(part) = self.read_joined(&room, scope, room_data.get(&room.id), &mut found.newly_seen)? {
                section.join.insert(room.id, part);
            }
        }
        found.joined = joined;
        Ok((section, found))
    }

    /// A membership that changed after the upper bound is taken as it was before.
    fn membership(&self, room: RoomNid, member: Stamped<MemberRecord>) -> Result<Option<Membership>, StoreError> {
        let rooms = &self.sources.rooms;
        if member.position <= self.to {
            let event = member.value.event.map(|nid| rooms.get_event_by_nid(nid)).transpose()?.flatten();
            return Ok(Some(Membership { membership: member.value.membership, event, sender: member.value.sender }));
        }
        let before = member_at(rooms, room, root_at(rooms, room, self.to)?, &self.request.user_id)?;
        Ok(before.and_then(|event| {
            let membership = event.pdu.membership()?.to_string();
            Some(Membership { membership, sender: event.pdu.sender.clone(), event: Some(event) })
        }))
    }

    /// The joined rooms that there may be something to tell of.
    fn candidates(
        &self,
        joined: &[RoomNid],
        changes: &BTreeMap<RoomNid, Vec<Position>>,
        room_data: &RoomAccountData<'_>,
        found: &mut Found,
    ) -> Result<BTreeSet<RoomNid>, StoreError> {
        let Some(since) = self.since else { return Ok(joined.iter().copied().collect()) };
        let mut candidates = self.sources.waiters.active_rooms(joined.iter().copied(), since.position);
        found.active = candidates.iter().copied().collect();
        if self.request.full_state {
            return Ok(joined.iter().copied().collect());
        }
        let has_user_news = self.user_activity() == Activity::Possible;
        let has_typing_news = self.sources.typing.version() > since.typing;
        for room in joined {
            if candidates.contains(room) {
                continue;
            }
            let has_news = changes.contains_key(room)
                || (has_typing_news && self.sources.typing.current(*room).0 > since.typing)
                // A private receipt is news for its user, not for the room.
                || (has_user_news
                    && !self.sources.receipts.scan_receipts(*room, &self.request.user_id, since.position, self.to)?.is_empty());
            if has_news {
                candidates.insert(*room);
            }
        }
        for room_id in room_data.keys() {
            if let Some(nid) = self.sources.rooms.get_room_nid(room_id)?
                && joined.contains(&nid)
            {
                candidates.insert(nid);
            }
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
        room_data: &RoomAccountData<'_>,
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
                let is_hidden = || {
                    Ok::<_, StoreError>(
                        !self.filter.include_leave || self.sources.rooms.is_forgotten(&self.request.user_id, nid)?,
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
