//! What each connection has been told, kept across restarts.
//!
//! A connection's answers are numbered where they change what its rooms count as told. A client comes with the number of the last answer, or,
//! if that got lost, of the one before: so each room is kept as of both. Any other number is unknown, and the client begins anew.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    sync::Arc,
};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, CommitError, Direction, RoomNid, Store, StoreError, Ticket,
    tables::sliding_sync::{ConnectionRecord, SLIDING_SYNC, SentRoom, SentRoomVersions, SlidingSyncRecord},
};
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{SlidingSyncError, required_state::RequiredState};

/// How many connections are kept in memory.
const CONNECTIONS_KEPT: NonZeroUsize = NonZeroUsize::new(2_000).unwrap();
/// How many connections one device may have; the ones that were not used for the longest go.
const CONNECTIONS_PER_DEVICE: usize = 10;
/// A connection that has not been used for so long is forgotten, in milliseconds.
const LIFETIME_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// How exactly it is kept when a connection was used, in milliseconds.
const USED_AT_STEP_MS: u64 = 60 * 60 * 1000;
/// How many different sets of required state a connection remembers. A room of a forgotten one is told its state again.
const CONFIGS_MAX: usize = 50;

/// Whose connection, and which.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct ConnectionKey {
    pub(super) user: OwnedUserId,
    pub(super) device: OwnedDeviceId,
    pub(super) id: String,
}

impl ConnectionKey {
    pub(super) fn new(user: &UserId, device: &DeviceId, id: &str) -> Self {
        Self { user: user.to_owned(), device: device.to_owned(), id: id.to_owned() }
    }

    fn row(&self, part: u64) -> (OwnedUserId, OwnedDeviceId, String, u64) {
        (self.user.clone(), self.device.clone(), self.id.clone(), part)
    }

    fn prefix(&self) -> (OwnedUserId, OwnedDeviceId, String) {
        (self.user.clone(), self.device.clone(), self.id.clone())
    }
}

/// What a connection has been told, as of the answer that its client has.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The number of that answer; zero: none.
    pub(super) number: u64,
    pub(super) rooms: HashMap<RoomNid, SentRoom>,
    configs: HashMap<u64, RequiredState>,
}

impl Told {
    pub(super) fn config(&self, hash: u64) -> RequiredState {
        self.configs.get(&hash).cloned().unwrap_or_default()
    }
}

/// What an answer changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// `None`: the room counts as never told.
    pub(super) rooms: BTreeMap<RoomNid, Option<SentRoom>>,
    pub(super) configs: BTreeMap<u64, RequiredState>,
}

#[derive(Default)]
struct Connection {
    record: ConnectionRecord,
    rooms: HashMap<RoomNid, SentRoomVersions>,
}

pub(super) struct Connections {
    store: Store,
    clock: Arc<dyn Clock>,
    open: Mutex<LruCache<ConnectionKey, Arc<Mutex<Connection>>>>,
}

impl Connections {
    pub(super) fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, open: Mutex::new(LruCache::new(CONNECTIONS_KEPT)) }
    }

    /// What a connection has been told, by the number that its client comes with.
    ///
    /// # Errors
    /// Unknown position, if the number is neither that of the last answer nor of the one before.
    pub(super) fn get_told(&self, key: &ConnectionKey, number: u64) -> Result<Told, SlidingSyncError> {
        let connection = self.load(key)?.ok_or(SlidingSyncError::UnknownPos)?;
        let mut connection = connection.lock();
        let now_ms = self.clock.now_ms();
        let unused_ms = now_ms.saturating_sub(connection.record.used_at_ms);
        let is_known = number != 0 && (number == connection.record.newer || number == connection.record.older);
        if !is_known || unused_ms > LIFETIME_MS {
            return Err(SlidingSyncError::UnknownPos);
        }
        if unused_ms > USED_AT_STEP_MS {
            connection.record.used_at_ms = now_ms;
            let mut batch = Batch::new();
            batch.put(&SLIDING_SYNC, &key.row(0), &SlidingSyncRecord::Connection(connection.record.clone()));
            let _flushed_later = self.store.enqueue(batch)?;
        }
        let rooms = connection.rooms.iter().filter_map(|(room, versions)| Some((*room, at(versions, number)?)));
        let configs = connection.record.configs.iter().map(|(hash, pairs)| (*hash, RequiredState::new(pairs.clone())));
        Ok(Told { number, rooms: rooms.collect(), configs: configs.collect() })
    }

    /// Notes what an answer changes, durably; the answer's number.
    pub(super) async fn commit(
        &self,
        key: &ConnectionKey,
        told: &Told,
        changes: Changes,
    ) -> Result<u64, SlidingSyncError> {
        if told.number != 0 && changes.rooms.is_empty() {
            return Ok(told.number);
        }
        let (number, ticket) = self.enqueue(key, told.number, changes)?;
        ticket.durable().await?;
        Ok(number)
    }

    fn enqueue(&self, key: &ConnectionKey, base: u64, changes: Changes) -> Result<(u64, Ticket), SlidingSyncError> {
        let known = self.load(key)?;
        let connection = known.clone().unwrap_or_default();
        let mut connection = connection.lock();
        let connection = &mut *connection;
        let mut batch = Batch::new();
        // Numbers never come back, also after a connection was forgotten: positions of the log do not either.
        let number = (connection.record.newer + 1).max(self.store.durable_position().0 + 1);
        if base == 0 {
            batch.delete_prefix(&SLIDING_SYNC, &key.prefix());
            connection.rooms.clear();
            connection.record.configs.clear();
            self.make_room(&mut batch, key)?;
        }
        for (room, versions) in &mut connection.rooms {
            // Of an answer that the client does not have.
            let is_lost = versions.newer.as_ref().is_some_and(|(of, _)| *of > base);
            if is_lost && !changes.rooms.contains_key(room) {
                *versions = SentRoomVersions { older: None, newer: Some((base, at(versions, base))) };
                batch.put(&SLIDING_SYNC, &key.row(room.0 + 1), &SlidingSyncRecord::Room(versions.clone()));
            }
        }
        for (room, sent) in changes.rooms {
            let versions = connection.rooms.entry(room).or_default();
            *versions = SentRoomVersions { older: Some((base, at(versions, base))), newer: Some((number, sent)) };
            batch.put(&SLIDING_SYNC, &key.row(room.0 + 1), &SlidingSyncRecord::Room(versions.clone()));
        }
        for (hash, config) in changes.configs {
            connection.record.configs.retain(|(known, _)| *known != hash);
            connection.record.configs.push((hash, config.pairs()));
        }
        let too_many = connection.record.configs.len().saturating_sub(CONFIGS_MAX);
        connection.record.configs.drain(..too_many);
        connection.record.older = base;
        connection.record.newer = number;
        connection.record.used_at_ms = self.clock.now_ms();
        batch.put(&SLIDING_SYNC, &key.row(0), &SlidingSyncRecord::Connection(connection.record.clone()));
        let ticket = self.store.enqueue(batch)?;
        if known.is_none() {
            let connection = std::mem::take(connection);
            self.open.lock().put(key.clone(), Arc::new(Mutex::new(connection)));
        }
        Ok((number, ticket))
    }

    fn load(&self, key: &ConnectionKey) -> Result<Option<Arc<Mutex<Connection>>>, StoreError> {
        if let Some(connection) = self.open.lock().get(key) {
            return Ok(Some(connection.clone()));
        }
        let mut connection = Connection::default();
        let mut is_known = false;
        for row in self.store.scan(&SLIDING_SYNC, &key.prefix(), Direction::Forward) {
            let ((_, _, _, part), record) = row?;
            match record {
                SlidingSyncRecord::Connection(record) => {
                    connection.record = record;
                    is_known = true;
                }
                SlidingSyncRecord::Room(versions) => {
                    connection.rooms.insert(RoomNid(part.saturating_sub(1)), versions);
                }
            }
        }
        if !is_known {
            return Ok(None);
        }
        // Somebody else may have loaded it meanwhile: there is one of each.
        let connection = Arc::new(Mutex::new(connection));
        Ok(Some(self.open.lock().get_or_insert(key.clone(), || connection).clone()))
    }

    /// Deletes connections of a device that begins one more than it may have.
    fn make_room(&self, batch: &mut Batch, key: &ConnectionKey) -> Result<(), StoreError> {
        let mut others: Vec<(u64, String)> = self
            .scan_heads((key.user.clone(), key.device.clone()))?
            .into_iter()
            .filter(|(other, _)| other.id != key.id)
            .map(|(other, record)| (record.used_at_ms, other.id))
            .collect();
        others.sort_unstable();
        let too_many = (others.len() + 1).saturating_sub(CONNECTIONS_PER_DEVICE);
        for (_, id) in others.into_iter().take(too_many) {
            let other = ConnectionKey { id, ..key.clone() };
            batch.delete_prefix(&SLIDING_SYNC, &other.prefix());
            self.open.lock().pop(&other);
        }
        Ok(())
    }

    /// The connections whose keys begin so, without their rooms.
    fn scan_heads(&self, prefix: impl chappe_store::Key) -> Result<Vec<(ConnectionKey, ConnectionRecord)>, StoreError> {
        let mut heads = Vec::new();
        for row in self.store.scan(&SLIDING_SYNC, &prefix, Direction::Forward) {
            if let ((user, device, id, _), SlidingSyncRecord::Connection(record)) = row? {
                heads.push((ConnectionKey { user, device, id }, record));
            }
        }
        Ok(heads)
    }

    /// Deletes the connections that have not been used for long.
    pub(super) async fn delete_old(&self) -> Result<(), CommitError> {
        let now_ms = self.clock.now_ms();
        for (key, record) in self.scan_heads(())? {
            if now_ms.saturating_sub(record.used_at_ms) > LIFETIME_MS {
                let mut batch = Batch::new();
                batch.delete_prefix(&SLIDING_SYNC, &key.prefix());
                self.open.lock().pop(&key);
                self.store.commit(batch).await?;
            }
        }
        Ok(())
    }
}

/// What a room was told as of an answer.
fn at(versions: &SentRoomVersions, number: u64) -> Option<SentRoom> {
    [&versions.newer, &versions.older]
        .into_iter()
        .flatten()
        .find(|(of, _)| *of <= number)
        .and_then(|(_, sent)| sent.clone())
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use ruma::{device_id, user_id};

    use super::*;

    fn key() -> ConnectionKey {
        ConnectionKey::new(user_id!("@a:x"), device_id!("D"), "main")
    }

    fn sent(timeline_limit: u32) -> SentRoom {
        SentRoom { config: 1, timeline_limit, up_to: None }
    }

    fn change(room: u64, sent: Option<SentRoom>) -> Changes {
        Changes { rooms: BTreeMap::from([(RoomNid(room), sent)]), configs: BTreeMap::new() }
    }

    #[tokio::test]
    async fn lost_answer_is_undone_and_older_ones_are_unknown() {
        let store = Store::in_memory();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let connections = Connections::new(store.clone(), clock.clone());
        let none = Told::default();
        let first = connections.commit(&key(), &none, change(1, Some(sent(1)))).await.unwrap();
        let told = connections.get_told(&key(), first).unwrap();
        let second = connections.commit(&key(), &told, change(2, Some(sent(2)))).await.unwrap();
        assert_eq!(connections.get_told(&key(), second).unwrap().rooms.len(), 2);
        // The answer got lost: the client comes with the one before, and gets another.
        let told = connections.get_told(&key(), first).unwrap();
        assert_eq!(told.rooms.keys().collect::<Vec<_>>(), [&RoomNid(1)]);
        let third = connections.commit(&key(), &told, change(1, Some(sent(5)))).await.unwrap();
        assert!(matches!(connections.get_told(&key(), second), Err(SlidingSyncError::UnknownPos)));

        // A restart keeps it all.
        let again = Connections::new(store, clock.clone());
        let told = again.get_told(&key(), third).unwrap();
        assert_eq!(told.rooms, HashMap::from([(RoomNid(1), sent(5))]));
        assert_eq!(again.get_told(&key(), first).unwrap().rooms, HashMap::from([(RoomNid(1), sent(1))]));
        assert_eq!(again.commit(&key(), &told, Changes::default()).await.unwrap(), third, "nothing changed");

        clock.advance(LIFETIME_MS + 1);
        assert!(matches!(again.get_told(&key(), third), Err(SlidingSyncError::UnknownPos)));
        again.delete_old().await.unwrap();
        assert!(again.scan_heads(()).unwrap().is_empty());
    }

    #[tokio::test]
    async fn device_keeps_only_its_latest_connections() {
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let connections = Connections::new(Store::in_memory(), clock.clone());
        for n in 0..CONNECTIONS_PER_DEVICE + 3 {
            clock.advance(1);
            let key = ConnectionKey { id: n.to_string(), ..key() };
            connections.commit(&key, &Told::default(), Changes::default()).await.unwrap();
        }
        let ids: Vec<_> = connections.scan_heads(()).unwrap().into_iter().map(|(key, _)| key.id).collect();
        assert_eq!(ids.len(), CONNECTIONS_PER_DEVICE);
        assert!(!ids.contains(&"0".to_owned()) && !ids.contains(&"2".to_owned()));
    }
}
