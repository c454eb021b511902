//! Read receipts (client-server API, receipts): public and private ones, for the whole room or for one thread of it.
//!
//! A receipt only moves forward, in the order in which this server learnt of the events. So does the fully-read marker, which
//! is written here and kept as room account data. Counting what is unread is push's.

use std::{collections::BTreeMap, sync::Arc};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, CommitError, Direction, Domain, Position, RoomNid, Stamped, Store, StoreError, Topic,
    tables::{
        account_data::ACCOUNT_DATA,
        events::{EVENT_NIDS, EVENT_ORDERS, EVENTS},
        receipts::{PRIVATE_RECEIPTS, RECEIPT_STREAM, RECEIPTS, ReceiptKey, ReceiptRecord},
    },
};
use parking_lot::{Mutex, RwLock};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UInt, UserId,
    api::federation::transactions::edu::{Edu, ReceiptContent, ReceiptData, ReceiptMap},
    events::receipt::{Receipt as ReceiptBody, ReceiptThread},
};
use serde_json::{Map, Value as JsonValue, json};

use crate::{
    account_data,
    edu::{is_joined, may_be_joined, queue_edu, scan_other_servers},
    guarded::commit_guarded,
};

const FULLY_READ: &str = "m.fully_read";
/// The longest event id of any room version, in bytes.
const EVENT_ID_BYTES_MAX: usize = 255;

/// Who may see a receipt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceiptKind {
    /// `m.read`: everyone in the room.
    Public,
    /// `m.read.private`: its user.
    Private,
}

impl ReceiptKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Public => "m.read",
            Self::Private => "m.read.private",
        }
    }
}

/// Which part of the room a receipt is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Thread {
    /// All of it.
    Unthreaded,
    /// What is in no thread.
    Main,
    /// The thread under this event.
    Root(OwnedEventId),
}

impl Thread {
    /// Reads a `thread_id`; `None` if it is neither `main` nor an event id.
    pub fn parse(thread_id: &str) -> Option<Self> {
        if thread_id == "main" {
            return Some(Self::Main);
        }
        EventId::parse(thread_id).ok().filter(|_| !thread_id.contains('\0')).map(|root| Self::Root(root.to_owned()))
    }

    fn key(&self) -> &str {
        match self {
            Self::Unthreaded => "",
            Self::Main => "main",
            Self::Root(root) => root.as_str(),
        }
    }
}

/// One receipt, as readers see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    pub position: Position,
    pub user_id: OwnedUserId,
    pub receipt_type: String,
    /// `thread_id` as clients see it; `None`: unthreaded.
    pub thread_id: Option<String>,
    pub event_id: String,
    pub ts_ms: Option<u64>,
}

/// Why a receipt was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SetReceiptError {
    #[error("you are not in this room")]
    NotJoined,
    /// The event is in another room.
    #[error("the event is not in this room")]
    WrongRoom,
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<StoreError> for SetReceiptError {
    fn from(error: StoreError) -> Self {
        Self::Commit(error.into())
    }
}

/// The receipts of all rooms.
pub struct Receipts {
    store: Store,
    server_name: OwnedServerName,
    clock: Arc<dyn Clock>,
    /// Held from reading a receipt to enqueueing its successor, so that of two at once the one that is ahead stays. Readers
    /// do not depend on it: they skip rows of the stream whose receipt has moved on.
    write: Mutex<()>,
    callbacks: RwLock<Vec<ReadCallback>>,
}

type ReadCallback = Box<dyn Fn(&UserId) + Send + Sync>;

impl Receipts {
    pub fn new(store: Store, server_name: OwnedServerName, clock: Arc<dyn Clock>) -> Self {
        Self { store, server_name, clock, write: Mutex::new(()), callbacks: RwLock::default() }
    }

    /// Calls `callback` with each local user who has read further. It must only wake wakers.
    pub fn on_read(&self, callback: impl Fn(&UserId) + Send + Sync + 'static) {
        self.callbacks.write().push(Box::new(callback));
    }

    /// A local user has read up to an event. A receipt that would move backwards is ignored.
    pub async fn set(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        kind: ReceiptKind,
        thread: &Thread,
        event_id: &EventId,
    ) -> Result<(), SetReceiptError> {
        let room = self.store.interner().get_room(&self.store, room_id)?.ok_or(SetReceiptError::NotJoined)?;
        if !is_joined(&self.store, room, user_id)? {
            return Err(SetReceiptError::NotJoined);
        }
        if self.room_of(event_id)?.is_some_and(|found| found != room) {
            return Err(SetReceiptError::WrongRoom);
        }
        let ts_ms = self.clock.now_ms();
        let key = (room, user_id.to_owned(), kind.as_str().to_owned(), thread.key().to_owned());
        let record = ReceiptRecord { event_id: event_id.to_string(), ts_ms: Some(ts_ms) };
        let servers = match kind {
            ReceiptKind::Public => scan_other_servers(&self.store, room, &self.server_name)?,
            ReceiptKind::Private => Vec::new(),
        };
        let ticket = {
            let _writing = self.write.lock();
            let mut batch = Batch::new();
            if self.put(&mut batch, key, record)? {
                match kind {
                    ReceiptKind::Public => batch.wake(Topic::Room(room)),
                    ReceiptKind::Private => batch.wake(Topic::User(user_id.to_owned())),
                }
                let edu = outgoing(room_id, user_id, thread, event_id, ts_ms);
                for server in servers {
                    queue_edu(&mut batch, &server, &format!("receipt {room_id} {user_id} {}", thread.key()), &edu);
                }
                Some(self.store.enqueue(batch)?)
            } else {
                None
            }
        };
        match ticket {
            Some(ticket) => ticket.durable().await?,
            // Already there: but is it kept?
            None => return Ok(self.store.barrier().await?),
        };
        self.callbacks.read().iter().for_each(|callback| callback(user_id));
        Ok(())
    }

    /// A local user moves their fully-read marker, unless it would move backwards.
    pub async fn set_fully_read(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        event_id: &EventId,
    ) -> Result<(), SetReceiptError> {
        let room = self.store.interner().get_room(&self.store, room_id)?.ok_or(SetReceiptError::NotJoined)?;
        if !is_joined(&self.store, room, user_id)? {
            return Err(SetReceiptError::NotJoined);
        }
        if self.room_of(event_id)? != Some(room) {
            return Err(SetReceiptError::WrongRoom);
        }
        let content = json!({ "event_id": event_id }).to_string();
        commit_guarded(&self.store, Domain::Account(user_id.to_owned()), |batch| {
            let current =
                self.store.get(&ACCOUNT_DATA, &(user_id.to_owned(), room_id.to_string(), FULLY_READ.to_owned()))?;
            if let Some(current) = current
                && let Some(marked) = marked_event(&current.value)
                && !self.is_ahead(event_id.as_str(), &marked)?
            {
                return Ok(());
            }
            Ok(account_data::queue_put(&self.store, batch, user_id, Some(room_id), FULLY_READ, &content)?)
        })
        .await
    }

    /// Takes the content of an `m.receipt` EDU. Believed only about the origin's own users, in rooms they are joined to; what is
    /// malformed is skipped by itself.
    pub async fn apply_edu(&self, origin: &ServerName, content: &JsonValue) -> Result<(), CommitError> {
        if origin == self.server_name {
            return Ok(());
        }
        let mut incoming = Vec::new();
        for (room_id, by_type) in content.as_object().into_iter().flatten() {
            let Ok(room_id) = OwnedRoomId::try_from(room_id.as_str()) else { continue };
            let Some(room) = self.store.interner().get_room(&self.store, &room_id)? else { continue };
            for (user_id, data) in by_type.get("m.read").and_then(JsonValue::as_object).into_iter().flatten() {
                let Ok(user_id) = OwnedUserId::try_from(user_id.as_str()) else { continue };
                if user_id.server_name() != origin || !may_be_joined(&self.store, room, &user_id)? {
                    continue;
                }
                let Some((thread, record)) = read_incoming(data) else { continue };
                if let Ok(event_id) = EventId::parse(record.event_id.as_str())
                    && self.room_of(&event_id)?.is_some_and(|found| found != room)
                {
                    continue;
                }
                incoming
                    .push(((room, user_id, ReceiptKind::Public.as_str().to_owned(), thread.key().to_owned()), record));
            }
        }
        let ticket = {
            let _writing = self.write.lock();
            let mut batch = Batch::new();
            for (key, record) in incoming {
                let room = key.0;
                if self.put(&mut batch, key, record)? {
                    batch.wake(Topic::Room(room));
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.store.enqueue(batch)?
        };
        ticket.durable().await.map(|_| ())
    }

    /// The receipts of a room written after `after` and up to `up_to`, oldest first, without other users' private ones.
    pub fn scan_receipts(
        &self,
        room: RoomNid,
        viewer: &UserId,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<Receipt>, StoreError> {
        self.scan_receipts_shown(room, |owner| owner == viewer, after, up_to)
    }

    /// The rooms in which a user has set private receipts after `after` and up to `up_to`.
    pub fn scan_rooms_with_private(
        &self,
        user_id: &UserId,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<RoomNid>, StoreError> {
        let (start, end) = ((user_id.to_owned(), after.next()), (user_id.to_owned(), up_to.next()));
        let rows = self.store.scan_range(&PRIVATE_RECEIPTS, &start, &end, Direction::Forward);
        rows.map(|row| row.map(|(_, room)| room)).collect()
    }

    /// As [`Receipts::scan_receipts`], for a reader who is shown the private receipts of the users that `is_own` says yes to.
    pub fn scan_receipts_shown(
        &self,
        room: RoomNid,
        is_own: impl Fn(&UserId) -> bool,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<Receipt>, StoreError> {
        let mut receipts = Vec::new();
        for row in
            self.store.scan_range(&RECEIPT_STREAM, &(room, after.next()), &(room, up_to.next()), Direction::Forward)
        {
            let ((_, position), key) = row?;
            if key.receipt_type == ReceiptKind::Private.as_str() && !is_own(&key.user_id) {
                continue;
            }
            let Some(current) = self
                .store
                .get(&RECEIPTS, &(room, key.user_id.clone(), key.receipt_type.clone(), key.thread.clone()))?
            else {
                continue;
            };
            if current.position == position {
                receipts.push(receipt(key.user_id, key.receipt_type, key.thread, current));
            }
        }
        Ok(receipts)
    }

    /// A user's own receipts in a room, of both kinds and all threads: what unread counts start from.
    pub fn scan_own(&self, room: RoomNid, user_id: &UserId) -> Result<Vec<Receipt>, StoreError> {
        self.store
            .scan(&RECEIPTS, &(room, user_id.to_owned()), Direction::Forward)
            .map(|row| {
                row.map(|((_, user_id, receipt_type, thread), current)| receipt(user_id, receipt_type, thread, current))
            })
            .collect()
    }

    /// Whether `event_id` comes after `than` in the room, as this server learnt of them. True if `than` is not known.
    fn is_ahead(&self, event_id: &str, than: &str) -> Result<bool, StoreError> {
        if event_id == than {
            return Ok(false);
        }
        let get_nid = |event_id: &str| match OwnedEventId::try_from(event_id) {
            Ok(event_id) => self.store.get(&EVENT_NIDS, &event_id),
            Err(_) => Ok(None),
        };
        // An event that is still on its way here is newer than all that have arrived.
        let Some(nid) = get_nid(event_id)? else { return Ok(true) };
        let Some(than) = get_nid(than)? else { return Ok(true) };
        let order = self.store.get(&EVENT_ORDERS, &nid)?;
        let than_order = self.store.get(&EVENT_ORDERS, &than)?;
        Ok(match (order, than_order) {
            (Some(order), Some(than_order)) => order > than_order,
            _ => true,
        })
    }

    fn room_of(&self, event_id: &EventId) -> Result<Option<RoomNid>, StoreError> {
        let Some(nid) = self.store.get(&EVENT_NIDS, &event_id.to_owned())? else { return Ok(None) };
        Ok(self.store.get(&EVENTS, &nid)?.map(|event| event.room))
    }

    /// Adds a receipt to a batch; false if it would not move forward.
    fn put(
        &self,
        batch: &mut Batch,
        key: (RoomNid, OwnedUserId, String, String),
        record: ReceiptRecord,
    ) -> Result<bool, StoreError> {
        if let Some(current) = self.store.get(&RECEIPTS, &key)? {
            if !self.is_ahead(&record.event_id, &current.value.event_id)? {
                return Ok(false);
            }
            batch.delete(&RECEIPT_STREAM, &(key.0, current.position));
            if key.2 == ReceiptKind::Private.as_str() {
                batch.delete(&PRIVATE_RECEIPTS, &(key.1.clone(), current.position));
            }
        }
        let position = batch.next_position();
        let (room, user_id, receipt_type, thread) = key.clone();
        if receipt_type == ReceiptKind::Private.as_str() {
            batch.put(&PRIVATE_RECEIPTS, &(user_id.clone(), position), &room);
        }
        batch.put(&RECEIPT_STREAM, &(room, position), &ReceiptKey { user_id, receipt_type, thread });
        batch.put(&RECEIPTS, &key, &Stamped { position, value: record });
        Ok(true)
    }
}

fn receipt(user_id: OwnedUserId, receipt_type: String, thread: String, current: Stamped<ReceiptRecord>) -> Receipt {
    Receipt {
        position: current.position,
        user_id,
        receipt_type,
        thread_id: (!thread.is_empty()).then_some(thread),
        event_id: current.value.event_id,
        ts_ms: current.value.ts_ms,
    }
}

/// The contents of the `m.receipt` events that tell a client of these receipts: one, unless a user has receipts for several
/// threads at one event, which one content cannot hold.
pub fn contents(receipts: &[Receipt]) -> Vec<JsonValue> {
    type ByUser = BTreeMap<OwnedUserId, JsonValue>;
    let mut contents: Vec<BTreeMap<String, BTreeMap<String, ByUser>>> = Vec::new();
    for receipt in receipts {
        let mut data = Map::new();
        if let Some(ts_ms) = receipt.ts_ms {
            data.insert("ts".to_owned(), ts_ms.into());
        }
        if let Some(thread_id) = &receipt.thread_id {
            data.insert("thread_id".to_owned(), thread_id.as_str().into());
        }
        let taken = |content: &BTreeMap<String, BTreeMap<String, ByUser>>| {
            content
                .get(&receipt.event_id)
                .and_then(|by_type| by_type.get(&receipt.receipt_type))
                .is_some_and(|by_user| by_user.contains_key(&receipt.user_id))
        };
        let free = contents.iter().position(|content| !taken(content)).unwrap_or(contents.len());
        if free == contents.len() {
            contents.push(BTreeMap::new());
        }
        if let Some(content) = contents.get_mut(free) {
            let by_type = content.entry(receipt.event_id.clone()).or_default();
            by_type
                .entry(receipt.receipt_type.clone())
                .or_default()
                .insert(receipt.user_id.clone(), JsonValue::Object(data));
        }
    }
    contents.into_iter().map(|content| json!(content)).collect()
}

fn marked_event(content: &str) -> Option<String> {
    let content: JsonValue = serde_json::from_str(content).ok()?;
    Some(content.get("event_id")?.as_str()?.to_owned())
}

fn read_incoming(data: &JsonValue) -> Option<(Thread, ReceiptRecord)> {
    let event_id = data.get("event_ids")?.as_array()?.last()?.as_str()?;
    if event_id.is_empty() || event_id.len() > EVENT_ID_BYTES_MAX || event_id.contains(char::is_control) {
        return None;
    }
    let body = data.get("data");
    let thread = match body.and_then(|body| body.get("thread_id")) {
        None | Some(JsonValue::Null) => Thread::Unthreaded,
        Some(thread_id) => Thread::parse(thread_id.as_str()?)?,
    };
    let ts_ms =
        body.and_then(|body| body.get("ts")).and_then(JsonValue::as_u64).filter(|ts_ms| UInt::new(*ts_ms).is_some());
    Some((thread, ReceiptRecord { event_id: event_id.to_owned(), ts_ms }))
}

fn outgoing(room_id: &RoomId, user_id: &UserId, thread: &Thread, event_id: &EventId, ts_ms: u64) -> Edu {
    let mut body = ReceiptBody::new(ruma::MilliSecondsSinceUnixEpoch(UInt::new_saturating(ts_ms)));
    body.thread = match thread {
        Thread::Unthreaded => ReceiptThread::Unthreaded,
        Thread::Main => ReceiptThread::Main,
        Thread::Root(root) => ReceiptThread::Thread(root.clone()),
    };
    let data = ReceiptData::new(body, vec![event_id.to_owned()]);
    let map = ReceiptMap::new(BTreeMap::from([(user_id.to_owned(), data)]));
    Edu::Receipt(ReceiptContent::new(BTreeMap::from([(room_id.to_owned(), map)])))
}

#[cfg(test)]
mod tests;
