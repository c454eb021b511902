//! Making one transaction out of what waits for a server.

use std::collections::{HashMap, VecDeque};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Direction, Position, Store, StoreError,
    tables::{
        events::EVENT_JSON,
        outgoing::{OUTGOING, OutgoingItem},
    },
};
use ruma::{OwnedServerName, OwnedTransactionId, ServerName};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The most rows that are looked at for one transaction: superseded EDUs do not count for its size, but must end somewhere.
const ROWS_MAX: usize = 1_000;
/// Where a transaction is full whatever the number of its items, in bytes.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// How much goes into one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pdus: usize,
    edus: usize,
    items: usize,
}

impl Limits {
    /// What the specification allows.
    pub(super) const FULL: Self = Self { pdus: 50, edus: 100, items: 150 };

    /// Half of what was in a transaction of `items` items.
    pub(super) fn halved(self, items: usize) -> Self {
        Self { items: (items / 2).max(1), ..self }
    }
}

/// A transaction ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    pub(super) id: OwnedTransactionId,
    pub(super) body: Value,
    /// How many events and EDUs it holds.
    pub(super) items: usize,
    /// First and last row it covers; `None` if it holds only what is not kept.
    pub(super) rows: Option<(Position, Position)>,
}

impl Transaction {
    /// A transaction with nothing in it, to see whether the server answers.
    pub(super) fn empty(now_ms: u64, own_name: &ServerName) -> Self {
        Window::default().into_transaction(now_ms, own_name, VecDeque::new())
    }

    /// What of it is worth a second try: nothing, if nothing of it was kept.
    pub(super) fn without_volatile(self) -> Option<Self> {
        self.rows.is_some().then_some(self)
    }
}

/// The next transaction for `server`; `None` if nothing waits.
///
/// Only durable rows are taken: what a power cut could still undo must not be told to others.
pub(super) fn assemble(
    store: &Store,
    clock: &dyn Clock,
    own_name: &ServerName,
    server: &OwnedServerName,
    limits: Limits,
    volatile: VecDeque<String>,
) -> Result<Option<Transaction>, StoreError> {
    let durable = store.durable_position();
    let mut window = Window::default();
    let rows = store.scan(&OUTGOING, &(server.clone(),), Direction::Forward).take(ROWS_MAX);
    for row in rows {
        let ((_, position), item) = row?;
        if position > durable || !window.has_room(&item, limits) {
            break;
        }
        window.take(store, position, item)?;
    }
    let with_volatile = window.edu_count + volatile.len() <= limits.edus && limits == Limits::FULL;
    let volatile = if with_volatile { volatile } else { VecDeque::new() };
    if window.rows.is_none() && volatile.is_empty() {
        return Ok(None);
    }
    Ok(Some(window.into_transaction(clock.now_ms(), own_name, volatile)))
}

#[derive(Default)]
struct Window {
    pdus: Vec<Value>,
    /// `None` where a later one took its place.
    edus: Vec<Option<Value>>,
    edu_count: usize,
    by_key: HashMap<String, usize>,
    bytes: usize,
    rows: Option<(Position, Position)>,
}

impl Window {
    fn has_room(&self, item: &OutgoingItem, limits: Limits) -> bool {
        let room_for_item = self.pdus.len() + self.edu_count < limits.items && self.bytes < BYTES_MAX;
        match item {
            OutgoingItem::Pdu(_) => room_for_item && self.pdus.len() < limits.pdus,
            OutgoingItem::Edu(_) => room_for_item && self.edu_count < limits.edus,
            OutgoingItem::CoalescedEdu { key, .. } => {
                self.by_key.contains_key(key) || (room_for_item && self.edu_count < limits.edus)
            }
        }
    }

    fn take(&mut self, store: &Store, position: Position, item: OutgoingItem) -> Result<(), StoreError> {
        self.rows = Some((self.rows.map_or(position, |(first, _)| first), position));
        let (text, key) = match item {
            OutgoingItem::Pdu(event) => {
                // An event that was purged meanwhile has nobody waiting for it.
                let Some(text) = store.get(&EVENT_JSON, &event)? else { return Ok(()) };
                self.bytes += text.len();
                self.pdus.extend(serde_json::from_str::<Value>(&text));
                return Ok(());
            }
            OutgoingItem::Edu(text) => (text, None),
            OutgoingItem::CoalescedEdu { key, edu } => (edu, Some(key)),
        };
        let Ok(edu) = serde_json::from_str::<Value>(&text) else { return Ok(()) };
        self.bytes += text.len();
        let slot = self.edus.len();
        let superseded = key.and_then(|key| self.by_key.insert(key, slot));
        match superseded.and_then(|at| self.edus.get_mut(at)) {
            Some(older) => *older = None,
            None => self.edu_count += 1,
        }
        self.edus.push(Some(edu));
        Ok(())
    }

    fn into_transaction(self, now_ms: u64, own_name: &ServerName, volatile: VecDeque<String>) -> Transaction {
        let mut edus: Vec<Value> = self.edus.into_iter().flatten().collect();
        edus.extend(volatile.iter().filter_map(|edu| serde_json::from_str::<Value>(edu).ok()));
        let items = self.pdus.len() + edus.len();
        // The same rows give the same id, also after a restart; the digest keeps apart what an earlier life of this server sent at
        // the same positions, and the instant what has no rows.
        let mut digest = Sha256::new();
        for item in self.pdus.iter().chain(&edus) {
            digest.update(item.to_string());
        }
        let digest = hex::encode(digest.finalize());
        let digest = digest.get(..16).unwrap_or(&digest);
        let id = match self.rows {
            Some((first, last)) => format!("{first}-{last}-{digest}"),
            None => format!("v{now_ms}-{digest}"),
        };
        let body = json!({
            "origin": own_name,
            "origin_server_ts": now_ms,
            "pdus": self.pdus,
            "edus": edus,
        });
        Transaction { id: id.as_str().into(), body, items, rows: self.rows }
    }
}
