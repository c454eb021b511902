//! What a room's summary says: how many members, and whose names may stand for the room's.
//!
//! Spec: Client-Server API, `GET /sync`, RoomSummary.

use std::{num::NonZeroUsize, sync::Arc};

use chappe_rooms::{Rooms, state::StateRoot};
use chappe_store::{Position, RoomNid, StoreError};
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId, events::StateEventType};
use serde_json::Value;

/// How many users stand for a room that has no name.
const HEROES: usize = 5;

/// How many rooms' summaries are kept.
const ROOMS_KEPT: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// A room's members, summed up.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub joined: u64,
    pub invited: u64,
    /// The room has neither name nor alias.
    pub is_nameless: bool,
    /// The first who are joined or invited, one more than is needed; and the first of those who no longer are.
    present: Vec<OwnedUserId>,
    former: Vec<OwnedUserId>,
}

impl Summary {
    /// Who stands for the room in the eyes of one of its members.
    pub fn heroes(&self, viewer: &UserId) -> Vec<OwnedUserId> {
        let others = |users: &[OwnedUserId]| -> Vec<_> {
            users.iter().filter(|user| **user != viewer).take(HEROES).cloned().collect()
        };
        let present = others(&self.present);
        if present.is_empty() { others(&self.former) } else { present }
    }
}

/// Summaries, kept by the state they are of: all clients that hear of a change share one.
pub struct Summaries {
    kept: Mutex<LruCache<RoomNid, (StateRoot, Arc<Summary>)>>,
}

impl Default for Summaries {
    fn default() -> Self {
        Self { kept: Mutex::new(LruCache::new(ROOMS_KEPT)) }
    }
}

impl Summaries {
    /// The summary of a room whose current state is, or a moment ago was, `root`.
    pub fn get(&self, rooms: &Rooms, room: RoomNid, root: StateRoot) -> Result<Arc<Summary>, StoreError> {
        if let Some((of, summary)) = self.kept.lock().get(&room)
            && *of == root
        {
            return Ok(summary.clone());
        }
        let summary = Arc::new(read_summary(rooms, room, root)?);
        self.kept.lock().put(room, (root, summary.clone()));
        Ok(summary)
    }
}

fn read_summary(rooms: &Rooms, room: RoomNid, root: StateRoot) -> Result<Summary, StoreError> {
    let mut summary = Summary { is_nameless: is_nameless(rooms, room, root)?, ..Summary::default() };
    let (mut present, mut former): (Vec<(Position, OwnedUserId)>, Vec<_>) = Default::default();
    for row in rooms.scan_members(room) {
        let (user, member) = row?;
        let list = match member.value.membership.as_str() {
            "join" => {
                summary.joined += 1;
                &mut present
            }
            "invite" => {
                summary.invited += 1;
                &mut present
            }
            "leave" | "ban" => &mut former,
            _ => continue,
        };
        if summary.is_nameless {
            list.push((member.position, user));
        }
    }
    summary.present = first(present);
    summary.former = first(former);
    Ok(summary)
}

fn first(mut users: Vec<(Position, OwnedUserId)>) -> Vec<OwnedUserId> {
    users.sort_unstable();
    users.into_iter().take(HEROES + 1).map(|(_, user)| user).collect()
}

fn is_nameless(rooms: &Rooms, room: RoomNid, root: StateRoot) -> Result<bool, StoreError> {
    for (event_type, field) in [(StateEventType::RoomName, "name"), (StateEventType::RoomCanonicalAlias, "alias")] {
        let Some(event) = rooms.get_from_root(room, root, &event_type, "")? else { continue };
        let content: Value = event.pdu.get_content().unwrap_or_default();
        if content.get(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty()) {
            return Ok(false);
        }
    }
    Ok(true)
}
