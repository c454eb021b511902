//! Interned identifiers, both ways. Written and read by [`crate::interner`] only. Rows are never changed or deleted.

use std::fmt::Write;

use ruma::{OwnedRoomId, events::StateEventType};
use sha2::{Digest, Sha256};

use crate::{
    ids::{RoomNid, StateKeyNid},
    table::Table,
};

/// Room id -> number.
pub const ROOM_NIDS: Table<OwnedRoomId, RoomNid> = Table::new(3, "room_nids");

/// Number -> room id.
pub const ROOM_IDS: Table<RoomNid, String> = Table::new(4, "room_ids");

/// SHA-256 of the pair's text -> number: state keys may hold any character and so cannot be keys themselves.
pub const STATE_KEY_NIDS: Table<[u8; 32], StateKeyNid> = Table::new(5, "state_key_nids").cached();

/// Number -> the pair's text: event type, a zero character, state key.
pub const STATE_KEYS: Table<StateKeyNid, String> = Table::new(6, "state_keys");

/// How long most event types are at the most, with the zero character.
const EVENT_TYPE_BYTES: usize = 32;

pub(crate) fn state_key_text(event_type: &StateEventType, state_key: &str) -> String {
    // An event type that holds a zero character would make this ambiguous; the event format check refuses such types.
    let mut text = String::with_capacity(EVENT_TYPE_BYTES + state_key.len());
    // Writing to a string does not fail.
    let _ = write!(text, "{event_type}");
    text.push('\0');
    text.push_str(state_key);
    text
}

pub(crate) fn state_key_hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

pub(crate) fn state_key_parts(text: &str) -> (StateEventType, String) {
    let (event_type, state_key) = text.split_once('\0').unwrap_or((text, ""));
    (event_type.into(), state_key.to_owned())
}
