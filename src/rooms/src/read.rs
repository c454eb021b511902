//! Reading rooms: current state, members, who is where.

use std::sync::Arc;

use chappe_store::{
    CommitError, Direction, Domain, EventNid, Position, RoomNid, Stamped, StateKeyNid, StoreError,
    tables::{
        rooms::{
            FORGOTTEN, JOINED_SERVERS, MEMBERS, MemberRecord, ROOMS, RoomRecord, SERVER_ROOMS, SPACE_CHILDREN,
            STRIPPED_STATE, USER_ROOMS,
        },
        state::{CURRENT_STATE, STATE_LOG},
    },
};
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    events::StateEventType,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
    room_version_rules::RoomVersionRules,
};
use serde::de::DeserializeOwned;

use crate::{Event, RoomError, Rooms, state::StateRoot};

/// A room whose state this server knows.
#[derive(Debug, Clone)]
pub struct Room {
    pub nid: RoomNid,
    pub id: OwnedRoomId,
    pub version: RoomVersionId,
    pub rules: RoomVersionRules,
    pub record: RoomRecord,
}

impl Rooms {
    /// The room, if this server has its state (it may no longer be in it).
    pub fn get_room(&self, room_id: &RoomId) -> Result<Option<Room>, StoreError> {
        let Some(nid) = self.store.interner().get_room(&self.store, room_id)? else { return Ok(None) };
        self.get_room_by_nid(nid)
    }

    pub fn get_room_by_nid(&self, nid: RoomNid) -> Result<Option<Room>, StoreError> {
        let Some(record) = self.store.get(&ROOMS, &nid)? else { return Ok(None) };
        let Some(id) = self.store.interner().get_room_id(&self.store, nid)? else { return Ok(None) };
        let Ok(version) = RoomVersionId::try_from(record.version.as_str()) else { return Ok(None) };
        let Some(rules) = chappe_protocol::room_version::rules(&version) else { return Ok(None) };
        Ok(Some(Room { nid, id, version, rules, record }))
    }

    /// The room, or the error that clients and servers get for one that is not known here.
    pub fn require_room(&self, room_id: &RoomId) -> Result<Room, RoomError> {
        self.get_room(room_id)?.ok_or_else(RoomError::unknown_room)
    }

    pub fn get_room_id(&self, nid: RoomNid) -> Result<Option<OwnedRoomId>, StoreError> {
        self.store.interner().get_room_id(&self.store, nid)
    }

    pub fn get_room_nid(&self, room_id: &RoomId) -> Result<Option<RoomNid>, StoreError> {
        self.store.interner().get_room(&self.store, room_id)
    }

    /// Every room this server has state of.
    pub fn scan_rooms(&self) -> impl Iterator<Item = Result<RoomNid, StoreError>> + '_ {
        self.store.scan(&ROOMS, &(), Direction::Forward).map(|row| row.map(|(nid, _)| nid))
    }

    // Current state.

    pub fn get_state_event(
        &self,
        room: RoomNid,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        let Some(key) = self.store.interner().get_state_key(&self.store, event_type, state_key)? else {
            return Ok(None);
        };
        let Some(nid) = self.store.get(&CURRENT_STATE, &(room, key))? else { return Ok(None) };
        self.get_event_by_nid(nid)
    }

    /// The content of a current state event; `None` if there is none or its content is not of this form.
    pub fn get_state_content<T: DeserializeOwned>(
        &self,
        room: RoomNid,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.get_state_event(room, event_type, state_key)?.and_then(|event| event.pdu.get_content().ok()))
    }

    /// Every event of the current state.
    pub fn get_current_state(&self, room: RoomNid) -> Result<Vec<Arc<Event>>, StoreError> {
        let rows = self.store.scan(&CURRENT_STATE, &(room,), Direction::Forward);
        let nids = rows.map(|row| row.map(|(_, nid)| nid)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.get_events_by_nid(&nids)?.into_iter().flatten().collect())
    }

    /// The current state events of one type. Reads the keys of the whole state.
    pub fn get_state_of_type(&self, room: RoomNid, event_type: &StateEventType) -> Result<Vec<Arc<Event>>, StoreError> {
        let mut nids = Vec::new();
        for row in self.store.scan(&CURRENT_STATE, &(room,), Direction::Forward) {
            let ((_, key), nid) = row?;
            let parts = self.store.interner().get_state_key_parts(&self.store, key)?;
            if parts.is_some_and(|parts| parts.0 == *event_type) {
                nids.push(nid);
            }
        }
        Ok(self.get_events_by_nid(&nids)?.into_iter().flatten().collect())
    }

    /// The current `m.space.child` events of a room, at most `limit` of them: those that link a room, and those that do so no longer.
    pub fn get_space_children(&self, room: RoomNid, limit: usize) -> Result<Vec<Arc<Event>>, StoreError> {
        let mut events = Vec::new();
        for row in self.store.scan(&SPACE_CHILDREN, &(room,), Direction::Forward).take(limit) {
            let (_, nid) = row?;
            events.extend(self.get_event_by_nid(nid)?);
        }
        Ok(events)
    }

    /// The root of the state in force at a position: what a sync token of that position has seen.
    pub fn get_state_root_at(&self, room: RoomNid, position: Position) -> Result<Option<StateRoot>, StoreError> {
        // Most are asked for where nothing has come since. The record is read first: what comes between the two is seen by the second.
        if let Some(record) = self.store.get(&ROOMS, &room)?
            && self.store.domain_version(&Domain::Room(room))? <= position
        {
            return Ok(Some(record.state));
        }
        self.store
            .scan_range(&STATE_LOG, &(room,), &(room, position.next()), Direction::Reverse)
            .next()
            .transpose()
            .map(|row| row.map(|(_, root)| root))
    }

    // State at any event.

    /// What a state event is in a state: its key, which is given a number if it has none, and its own number. `None` for other events.
    pub(crate) fn state_entry(&self, event: &Event) -> Result<Option<(StateKeyNid, EventNid)>, CommitError> {
        let Some((event_type, state_key)) = event.pdu.state_tuple() else { return Ok(None) };
        let key = self.store.interner().intern_state_key(&self.store, &event_type, state_key)?;
        Ok(Some((key, event.nid)))
    }

    pub fn get_from_root(
        &self,
        room: RoomNid,
        root: StateRoot,
        event_type: &StateEventType,
        state_key: &str,
    ) -> Result<Option<Arc<Event>>, StoreError> {
        let Some(key) = self.store.interner().get_state_key(&self.store, event_type, state_key)? else {
            return Ok(None);
        };
        let Some(nid) = self.trees.get(room, root, key)? else { return Ok(None) };
        self.get_event_by_nid(nid)
    }

    /// Every entry of a state: pairs of interned state key and event.
    pub fn get_root_entries(&self, room: RoomNid, root: StateRoot) -> Result<Vec<(StateKeyNid, EventNid)>, StoreError> {
        self.trees.entries(room, root)
    }

    pub fn get_root_events(&self, room: RoomNid, root: StateRoot) -> Result<Vec<Arc<Event>>, StoreError> {
        let nids: Vec<_> = self.trees.entries(room, root)?.into_iter().map(|(_, nid)| nid).collect();
        Ok(self.get_events_by_nid(&nids)?.into_iter().flatten().collect())
    }

    /// What differs between two states of a room: costs only that.
    pub fn get_state_diff(
        &self,
        room: RoomNid,
        from: StateRoot,
        to: StateRoot,
    ) -> Result<Vec<crate::state::StateChange>, StoreError> {
        self.trees.diff(room, from, to)
    }

    pub fn get_history_visibility(&self, room: RoomNid) -> Result<HistoryVisibility, StoreError> {
        #[derive(serde::Deserialize)]
        struct Content {
            history_visibility: HistoryVisibility,
        }
        Ok(self
            .get_state_content::<Content>(room, &StateEventType::RoomHistoryVisibility, "")?
            .map_or(HistoryVisibility::Shared, |content| content.history_visibility))
    }

    // Members.

    pub fn get_member(&self, room: RoomNid, user: &UserId) -> Result<Option<Stamped<MemberRecord>>, StoreError> {
        self.store.get(&MEMBERS, &(room, user.to_owned()))
    }

    /// The user's membership; `leave` where the room has never heard of them.
    pub fn get_membership(&self, room: RoomNid, user: &UserId) -> Result<MembershipState, StoreError> {
        Ok(self.get_member(room, user)?.map_or(MembershipState::Leave, |member| member.value.membership.into()))
    }

    pub fn is_joined(&self, room: RoomNid, user: &UserId) -> Result<bool, StoreError> {
        Ok(self.get_member(room, user)?.is_some_and(|member| member.value.membership == "join"))
    }

    /// Every user with any membership in the room.
    pub fn scan_members(
        &self,
        room: RoomNid,
    ) -> impl Iterator<Item = Result<(OwnedUserId, Stamped<MemberRecord>), StoreError>> + '_ {
        self.store.scan(&MEMBERS, &(room,), Direction::Forward).map(|row| row.map(|((_, user), member)| (user, member)))
    }

    /// Every room a local user has a membership in and has not forgotten.
    pub fn scan_user_rooms(
        &self,
        user: &UserId,
    ) -> impl Iterator<Item = Result<(RoomNid, Stamped<MemberRecord>), StoreError>> + '_ {
        let user = user.to_owned();
        self.store
            .scan(&USER_ROOMS, &(user,), Direction::Forward)
            .map(|row| row.map(|((_, room), member)| (room, member)))
    }

    /// A local user's membership as that user sees it: includes invites and knocks to rooms this server has no state of.
    pub fn get_user_room(&self, user: &UserId, room: RoomNid) -> Result<Option<Stamped<MemberRecord>>, StoreError> {
        self.store.get(&USER_ROOMS, &(user.to_owned(), room))
    }

    pub fn get_joined_rooms(&self, user: &UserId) -> Result<Vec<RoomNid>, StoreError> {
        self.scan_user_rooms(user)
            .filter_map(|row| match row {
                Ok((room, member)) => (member.value.membership == "join").then_some(Ok(room)),
                Err(error) => Some(Err(error)),
            })
            .collect()
    }

    /// The rooms that a local user and another are both joined to, in order of their ids.
    pub fn get_mutual_rooms(&self, user: &UserId, other: &UserId) -> Result<Vec<OwnedRoomId>, StoreError> {
        let mut mutual = Vec::new();
        for room in self.get_joined_rooms(user)? {
            if self.is_joined(room, other)? {
                mutual.extend(self.get_room_id(room)?);
            }
        }
        mutual.sort();
        Ok(mutual)
    }

    pub fn is_forgotten(&self, user: &UserId, room: RoomNid) -> Result<bool, StoreError> {
        self.store.contains(&FORGOTTEN, &(user.to_owned(), room))
    }

    pub fn get_stripped_state(&self, user: &UserId, room: RoomNid) -> Result<Vec<serde_json::Value>, StoreError> {
        Ok(self.store.get(&STRIPPED_STATE, &(user.to_owned(), room))?.map(|json| json.0).unwrap_or_default())
    }

    // Servers.

    /// The servers with joined users in the room, this one included.
    pub fn get_joined_servers(&self, room: RoomNid) -> Result<Vec<OwnedServerName>, StoreError> {
        self.scan_joined_servers(room).map(|row| row.map(|(server, _)| server)).collect()
    }

    /// The same, each with how many of its users are joined.
    pub(crate) fn scan_joined_servers(
        &self,
        room: RoomNid,
    ) -> impl Iterator<Item = Result<(OwnedServerName, u64), StoreError>> + '_ {
        self.store
            .scan(&JOINED_SERVERS, &(room,), Direction::Forward)
            .map(|row| row.map(|((_, server), count)| (server, count)))
    }

    pub fn is_server_joined(&self, room: RoomNid, server: &ServerName) -> Result<bool, StoreError> {
        self.store.contains(&JOINED_SERVERS, &(room, server.to_owned()))
    }

    pub fn get_rooms_of_server(&self, server: &ServerName) -> Result<Vec<RoomNid>, StoreError> {
        self.store
            .scan(&SERVER_ROOMS, &(server.to_owned(),), Direction::Forward)
            .map(|row| row.map(|((_, room), _)| room))
            .collect()
    }

    /// How many users are joined, all servers together.
    pub fn get_joined_count(&self, room: RoomNid) -> Result<u64, StoreError> {
        match self.heads.get(room) {
            Some(head) => Ok(head.servers.values().sum()),
            None => self.scan_joined_servers(room).map(|row| row.map(|(_, count)| count)).sum(),
        }
    }

    /// Whether a server's messages to this room are admitted by the room's own access list.
    pub fn is_server_admitted(&self, room: RoomNid, server: &ServerName) -> Result<bool, StoreError> {
        let Some(event) = self.get_state_event(room, &StateEventType::RoomServerAcl, "")? else { return Ok(true) };
        Ok(event
            .pdu
            .get_content::<serde_json::Value>()
            .is_ok_and(|content| chappe_protocol::acl::ServerAcl::from_content(&content).allows(server)))
    }

    pub(crate) fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name
    }
}
