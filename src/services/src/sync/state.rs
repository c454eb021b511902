//! Reading what changed in a room's state, at the cost of what changed.

use std::sync::Arc;

use chappe_rooms::{
    Event, Rooms,
    state::{EMPTY, StateRoot},
};
use chappe_store::{Position, RoomNid, StoreError};
use ruma::{
    UserId,
    events::{StateEventType, room::member::MembershipState},
};

use super::timeline::Timeline;

/// Up to where the state is told.
#[derive(Clone, Copy)]
pub enum Until<'a> {
    /// To the start of a timeline, whose own events bring it to the end.
    StartOf(&'a Timeline),
    /// To the end of the timeline.
    End,
}

/// A stretch of a room's state.
#[derive(Clone, Copy, Debug)]
pub struct StateSpan {
    pub room: RoomNid,
    /// What the client has; [`EMPTY`] if it has nothing.
    pub from: StateRoot,
    /// What it shall have at the end of the timeline.
    pub to: StateRoot,
    /// Members of whom there was nothing at the start are left out.
    pub skips_new_members: bool,
}

#[derive(Default, Debug)]
pub struct StateChanges {
    pub events: Vec<Arc<Event>>,
    /// What a room's summary is made of changed: members, name or alias.
    pub touches_summary: bool,
}

/// What a client must be told of a stretch of state. Keys that `wants` refuses are not read.
///
/// The start of the timeline is judged by what the client will hold: a key that ends as it began is not told, even where the
/// timeline starts on a branch that had it otherwise, and a key that changed outside the timeline is told as it ends.
pub fn read_state(
    rooms: &Rooms,
    span: StateSpan,
    until: Until<'_>,
    wants: impl Fn(&StateEventType, &str) -> bool,
) -> Result<StateChanges, StoreError> {
    let store = rooms.store();
    let mut changes = StateChanges::default();
    let mut nids = Vec::new();
    for change in rooms.get_state_diff(span.room, span.from, span.to)? {
        let Some(parts) = store.interner().get_state_key_parts(store, change.key)? else { continue };
        let (event_type, state_key) = &*parts;
        changes.touches_summary |= matches!(
            event_type,
            StateEventType::RoomMember | StateEventType::RoomName | StateEventType::RoomCanonicalAlias
        );
        let Some(new) = change.new else { continue };
        let is_new_member = *event_type == StateEventType::RoomMember && change.old.is_none();
        if !wants(event_type, state_key) || (span.skips_new_members && is_new_member) {
            continue;
        }
        let timeline = match until {
            Until::StartOf(timeline) if timeline.contains(new) => timeline,
            _ => {
                nids.push(new);
                continue;
            }
        };
        let Some(start) = timeline.state_before() else { continue };
        if let Some(before) = rooms.get_from_root(span.room, start, event_type, state_key)?
            && Some(before.nid) != change.old
            && !timeline.contains(before.nid)
        {
            changes.events.push(before);
        }
    }
    // As they came, as far as this server made their numbers: what lies side by side is read together.
    nids.sort_unstable();
    changes.events.extend(rooms.get_events_by_nid(&nids)?.into_iter().flatten());
    Ok(changes)
}

/// The state in force at a position; empty if the room was not known then.
pub fn root_at(rooms: &Rooms, room: RoomNid, position: Position) -> Result<StateRoot, StoreError> {
    Ok(rooms.get_state_root_at(room, position)?.unwrap_or(EMPTY))
}

/// A user's member event in a state.
pub fn member_at(
    rooms: &Rooms,
    room: RoomNid,
    root: StateRoot,
    user: &UserId,
) -> Result<Option<Arc<Event>>, StoreError> {
    rooms.get_from_root(room, root, &StateEventType::RoomMember, user.as_str())
}

/// Whether a user is joined in a state.
pub fn is_joined_at(rooms: &Rooms, room: RoomNid, root: StateRoot, user: &UserId) -> Result<bool, StoreError> {
    Ok(member_at(rooms, room, root, user)?.and_then(|event| event.pdu.membership()) == Some(MembershipState::Join))
}
