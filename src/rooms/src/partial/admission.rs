//! The resident side of a faster join: the room's state without the members that the joining server can do without.

use std::collections::HashSet;

use chappe_store::{EventNid, Position, StoreError};
use ruma::{OwnedUserId, UserId, events::StateEventType};
use serde_json::Value;

use crate::{Event, Room, Rooms, state::StateRoot};

/// How many members stand for a room that has no name.
const HEROES_MAX: usize = 5;

impl Rooms {
    /// The events of a state but for the members; of these only those who stand for a room without a name.
    pub(crate) fn get_state_without_members(
        &self,
        room: &Room,
        root: StateRoot,
        joiner: &UserId,
    ) -> Result<Vec<EventNid>, StoreError> {
        let store = &self.store;
        let mut events = Vec::new();
        for (key, nid) in self.get_root_entries(room.nid, root)? {
            let parts = store.interner().get_state_key_parts(store, key)?;
            if parts.is_some_and(|parts| parts.0 == StateEventType::RoomMember) {
                continue;
            }
            events.push(nid);
        }
        if self.is_nameless(room, root)? {
            for hero in self.heroes(room, joiner)? {
                let member = self.get_from_root(room.nid, root, &StateEventType::RoomMember, hero.as_str())?;
                events.extend(member.map(|member| member.nid));
            }
        }
        Ok(events)
    }

    /// The auth chain that goes with a state that is told: what the state itself holds is not repeated.
    pub(crate) fn get_chain_beside(&self, join: &Event, state: &[EventNid]) -> Result<Vec<EventNid>, StoreError> {
        let told: HashSet<_> = state.iter().copied().collect();
        let chain = self.chains.with_ancestors(&[state, &join.record.auth_events].concat())?;
        Ok(chain.into_iter().filter(|nid| !told.contains(nid)).collect())
    }

    fn is_nameless(&self, room: &Room, root: StateRoot) -> Result<bool, StoreError> {
        for (event_type, field) in [(StateEventType::RoomName, "name"), (StateEventType::RoomCanonicalAlias, "alias")] {
            let Some(event) = self.get_from_root(room.nid, root, &event_type, "")? else { continue };
            let content: Value = event.pdu.get_content().unwrap_or_default();
            if content.get(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first who are in the room or invited, or else the first of those who were.
    ///
    /// Spec: Client-Server API, `GET /sync`, `m.heroes`.
    fn heroes(&self, room: &Room, viewer: &UserId) -> Result<Vec<OwnedUserId>, StoreError> {
        let (mut present, mut former): (Vec<(Position, OwnedUserId)>, Vec<_>) = Default::default();
        for row in self.scan_members(room.nid) {
            let (user, member) = row?;
            let list = match member.value.membership.as_str() {
                "join" | "invite" => &mut present,
                "leave" | "ban" => &mut former,
                _ => continue,
            };
            if user != viewer {
                list.push((member.position, user));
            }
        }
        let mut heroes = if present.is_empty() { former } else { present };
        heroes.sort_unstable();
        Ok(heroes.into_iter().take(HEROES_MAX).map(|(_, user)| user).collect())
    }
}
