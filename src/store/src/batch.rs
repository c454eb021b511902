//! A batch: what one write wants to change, atomically.

use ruma::{OwnedServerName, OwnedUserId};

use crate::{
    engine::Write,
    ids::{Position, RoomNid},
    key::{Key, KeyWriter},
    record::{Value, ValueWriter},
    table::{Table, prefix_end},
};

/// A consistency domain: a thing whose writers must not overlook each other.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Domain {
    /// The event graph and state of one room.
    Room(RoomNid),
    /// One account: its devices, keys, data.
    Account(OwnedUserId),
    /// Anything else that has a name: a room alias, a media id, a registration token.
    Named { kind: &'static str, id: String },
}

impl Domain {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Room(room) => format!("room:{room}"),
            Self::Account(user) => format!("account:{user}"),
            Self::Named { kind, id } => format!("{kind}:{id}"),
        }
    }
}

/// Who is to be woken once a batch is durable.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Topic {
    /// Everyone who follows this room.
    Room(RoomNid),
    /// Every client of this local user.
    User(OwnedUserId),
    /// The federation sender to this server.
    Destination(OwnedServerName),
}

pub(crate) struct PendingWrite {
    pub(crate) write: Write,
    pub(crate) key_symbolic_at: Vec<usize>,
    pub(crate) value_symbolic_at: Vec<usize>,
}

/// Rows to write, the versions they rely on, and whom to wake.
#[derive(Default)]
pub struct Batch {
    pub(crate) writes: Vec<PendingWrite>,
    pub(crate) guards: Vec<(Domain, Position)>,
    pub(crate) positions: u64,
    pub(crate) topics: Vec<Topic>,
    /// The table of a row that cannot be written.
    pub(crate) invalid: Option<&'static str>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// A position of this batch, filled in when it commits. Each call gives the next one.
    pub fn next_position(&mut self) -> Position {
        let position = Position::symbolic(self.positions);
        self.positions += 1;
        position
    }

    pub fn put<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K, value: &V) {
        let key = self.checked(table, key);
        let mut writer = ValueWriter::default();
        value.encode(&mut writer);
        if writer.invalid {
            self.invalid = Some(table.name);
        }
        self.writes.push(PendingWrite {
            write: Write::Put { key: key.bytes, value: writer.bytes },
            key_symbolic_at: key.symbolic_at,
            value_symbolic_at: writer.symbolic_at,
        });
    }

    pub fn delete<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K) {
        let key = self.checked(table, key);
        self.push_plain(Write::Delete { key: key.bytes });
    }

    /// Deletes every row whose key begins with `prefix` (the first parts of the key, as a tuple).
    pub fn delete_prefix<K: Key, V: Value>(&mut self, table: &Table<K, V>, prefix: &impl Key) {
        let start = self.checked(table, prefix).bytes;
        let end = prefix_end(&start);
        self.push_plain(Write::DeleteRange { start, end });
    }

    /// Deletes the rows with keys in `start..end`.
    pub fn delete_range<K: Key, V: Value>(&mut self, table: &Table<K, V>, start: &impl Key, end: &impl Key) {
        let start = self.checked(table, start).bytes;
        let end = self.checked(table, end).bytes;
        self.push_plain(Write::DeleteRange { start, end });
    }

    /// Commit only if nobody else has committed under this domain since `seen`, the answer of
    /// [`Store::domain_version`](crate::Store::domain_version) before the batch was computed.
    pub fn guard(&mut self, domain: Domain, seen: Position) {
        self.guards.push((domain, seen));
    }

    /// Wake the readers of `topic` once the batch is durable.
    pub fn wake(&mut self, topic: Topic) {
        if !self.topics.contains(&topic) {
            self.topics.push(topic);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Takes over all of another batch's writes, guards and topics. The other batch must not have used positions of its own.
    pub fn absorb(&mut self, other: Batch) {
        debug_assert_eq!(other.positions, 0, "positions of an absorbed batch would clash");
        self.writes.extend(other.writes);
        self.guards.extend(other.guards);
        other.topics.into_iter().for_each(|topic| self.wake(topic));
        self.invalid = self.invalid.or(other.invalid);
    }

    fn checked<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &impl Key) -> KeyWriter {
        let key = table.key(key);
        if key.invalid {
            self.invalid = Some(table.name);
        }
        key
    }

    fn push_plain(&mut self, write: Write) {
        self.writes.push(PendingWrite { write, key_symbolic_at: Vec::new(), value_symbolic_at: Vec::new() });
    }

    /// The writes with every symbolic position filled in.
    pub(crate) fn resolve(writes: Vec<PendingWrite>, first: Position) -> Vec<Write> {
        writes
            .into_iter()
            .map(|pending| {
                let PendingWrite { mut write, key_symbolic_at, value_symbolic_at } = pending;
                if let Write::Put { key, value } = &mut write {
                    fill_in(key, &key_symbolic_at, first);
                    fill_in(value, &value_symbolic_at, first);
                }
                write
            })
            .collect()
    }
}

fn fill_in(bytes: &mut [u8], symbolic_at: &[usize], first: Position) {
    for at in symbolic_at {
        if let Some(slot) = bytes.get_mut(*at..*at + 8)
            && let Ok(symbol) = <[u8; 8]>::try_from(&*slot)
        {
            slot.copy_from_slice(&Position(u64::from_be_bytes(symbol)).resolve(first).0.to_be_bytes());
        }
    }
}
