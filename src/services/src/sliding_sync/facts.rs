//! What lists sort and filter rooms by, kept in memory while nothing happens in the room.

use std::{num::NonZeroUsize, sync::Arc};

use chappe_rooms::Rooms;
use chappe_store::{Direction, Position, RoomNid, StoreError, tables::events::TIMELINE};
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{UserId, events::StateEventType};
use serde_json::Value;

use crate::sync::waiters::Waiters;

/// How many rooms' facts are kept.
const ROOMS_KEPT: NonZeroUsize = NonZeroUsize::new(50_000).unwrap();
/// How many of the newest events are looked at for one that moves the room up.
const BUMP_SEARCHED: usize = 100;

/// Events that move a room to the top of lists.
const BUMP_TYPES: [&str; 9] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RoomFacts {
    /// The newest event that moves the room up, if it is among the newest at all.
    pub(super) bump: Option<Position>,
    pub(super) is_encrypted: bool,
    pub(super) room_type: Option<String>,
    pub(super) name: Option<String>,
}

pub(super) struct Facts {
    kept: Mutex<LruCache<RoomNid, (Position, Arc<RoomFacts>)>>,
}

impl Default for Facts {
    fn default() -> Self {
        Self { kept: Mutex::new(LruCache::new(ROOMS_KEPT)) }
    }
}

impl Facts {
    /// The facts of a room that this server is in, as of now.
    pub(super) fn get(&self, rooms: &Rooms, waiters: &Waiters, room: RoomNid) -> Result<Arc<RoomFacts>, StoreError> {
        let kept = self.kept.lock().get(&room).cloned();
        if let Some((as_of, facts)) = kept
            && waiters.active_rooms([room], as_of).is_empty()
        {
            return Ok(facts);
        }
        // Before reading: what happens meanwhile makes the facts stale at once.
        let as_of = waiters.position();
        let facts = Arc::new(read(rooms, room)?);
        self.kept.lock().put(room, (as_of, facts.clone()));
        Ok(facts)
    }
}

fn read(rooms: &Rooms, room: RoomNid) -> Result<RoomFacts, StoreError> {
    let mut facts = RoomFacts::default();
    for row in rooms.store().scan(&TIMELINE, &(room,), Direction::Reverse).take(BUMP_SEARCHED) {
        let ((_, position), nid) = row?;
        let Some(event) = rooms.get_event_by_nid(nid)? else { continue };
        if BUMP_TYPES.contains(&event.pdu.kind.to_string().as_str()) {
            facts.bump = Some(position);
            break;
        }
    }
    let content = |event_type: &StateEventType| rooms.get_state_content::<Value>(room, event_type, "");
    facts.is_encrypted = rooms.get_state_event(room, &StateEventType::RoomEncryption, "")?.is_some();
    facts.room_type = text(content(&StateEventType::RoomCreate)?.as_ref(), "type");
    facts.name = text(content(&StateEventType::RoomName)?.as_ref(), "name");
    Ok(facts)
}

/// The same from the stripped state of a room that the user is invited to, or knocks on.
pub(super) fn read_stripped(rooms: &Rooms, user: &UserId, room: RoomNid) -> Result<RoomFacts, StoreError> {
    let stripped = rooms.get_stripped_state(user, room)?;
    let content = |event_type: &str| {
        let event = stripped.iter().find(|event| event.get("type").and_then(Value::as_str) == Some(event_type));
        event.and_then(|event| event.get("content"))
    };
    Ok(RoomFacts {
        bump: None,
        is_encrypted: content("m.room.encryption").is_some(),
        room_type: text(content("m.room.create"), "type"),
        name: text(content("m.room.name"), "name"),
    })
}

pub(super) fn text(content: Option<&Value>, field: &str) -> Option<String> {
    let text = content?.get(field)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}
