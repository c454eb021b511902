//! Rows that are read again and again, kept in memory: one lookup in place of a search through the engine's buffers and files.
//!
//! It stands between the store and its engine, sees every write, and is never behind: a row that is written is replaced or dropped before the write
//! returns. While a batch is being applied nothing is read from here, so that a reader who has seen one row of a batch sees the others too.
//! Which tables are read through it their declarations say ([`Table::cached`](crate::table::Table::cached)). Scans go past it, but for those of
//! all rows that a table has of a room, where the table says so ([`Table::listed`](crate::table::Table::listed)).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, Weighter,
    sync::{Cache, DefaultLifecycle, GuardResult},
};

use crate::{
    engine::{Direction, Engine, EngineError, ScanItem, Write},
    table::prefix_end,
};

/// The largest value that is kept, in bytes.
const VALUE_BYTES_MAX: usize = 4 << 10;
/// What an entry takes beside its key and value, in bytes: its place in the cache, and three allocations.
const ENTRY_BYTES: u64 = 200;
/// How many bytes of the cache an entry is expected to take.
const ENTRY_BYTES_EXPECTED: u64 = 280;
/// What each row of a list takes beside its key and value, in bytes.
const LISTED_ROW_BYTES: usize = 80;
/// How many keys are remembered of rows that are kept no more, as a share of those that are.
const GHOSTS: f64 = 0.1;

/// A table's id and the number of a room: what the rows of a list begin with.
pub(crate) const LIST_KEY_BYTES: usize = 1 + size_of::<u64>();

/// Rows in order of their keys.
pub(crate) type List = Arc<[(Bytes, Bytes)]>;

#[derive(Clone)]
enum Kept {
    /// A row's value, or that there is none.
    Row(Option<Bytes>),
    /// All rows whose keys begin with that of the entry.
    List(List),
}

/// An engine whose point reads are answered from memory where they can be.
pub struct RowCache {
    engine: Arc<dyn Engine>,
    rows: Cache<Vec<u8>, Kept, WeightByBytes>,
    /// A batch is being applied: of its rows the engine may have one state, and the cache another.
    is_applying: AtomicBool,
    /// For each table's id, whether rows of it may be here, and whether lists may.
    tables: [AtomicBool; 256],
    listed: [AtomicBool; 256],
    /// For each table's id, whether it can have rows: it had some, or some were written.
    written: [AtomicBool; 256],
}

#[derive(Clone)]
struct WeightByBytes;

impl Weighter<Vec<u8>, Kept> for WeightByBytes {
    fn weight(&self, key: &Vec<u8>, kept: &Kept) -> u64 {
        let bytes = key.len()
            + match kept {
                Kept::Row(row) => row.as_ref().map_or(0, Bytes::len),
                Kept::List(rows) => bytes_of(rows),
            };
        ENTRY_BYTES + u64::try_from(bytes).unwrap_or(u64::MAX - ENTRY_BYTES)
    }
}

fn bytes_of(rows: &[(Bytes, Bytes)]) -> usize {
    rows.iter().map(|(key, value)| LISTED_ROW_BYTES + key.len() + value.len()).sum()
}

impl RowCache {
    /// `capacity_bytes` is how much memory the rows may take.
    pub fn new(engine: Arc<dyn Engine>, capacity_bytes: u64) -> Self {
        let options = OptionsBuilder::new()
            .weight_capacity(capacity_bytes)
            .estimated_items_capacity(usize::try_from(capacity_bytes / ENTRY_BYTES_EXPECTED).unwrap_or(usize::MAX))
            .ghost_allocation(GHOSTS)
            .build()
            .expect("capacities are given");
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        let rows = Cache::with_options(options, WeightByBytes, hasher, lifecycle);
        let (tables, listed) = ([const { AtomicBool::new(false) }; 256], [const { AtomicBool::new(false) }; 256]);
        let written = find_tables(engine.as_ref());
        Self { engine, rows, is_applying: AtomicBool::new(false), tables, listed, written }
    }

    /// Whether a table can have rows. Of one that never had any nothing needs to be read: many are for what some servers never do.
    pub(crate) fn may_have_rows(&self, table: u8) -> bool {
        self.written[usize::from(table)].load(Ordering::SeqCst)
    }

    /// Keys begin with the id of their table.
    fn may_hold(&self, table: u8) -> bool {
        self.tables[usize::from(table)].load(Ordering::SeqCst)
    }

    fn may_list(&self, table: u8) -> bool {
        self.listed[usize::from(table)].load(Ordering::SeqCst)
    }

    /// All rows whose keys begin with `prefix`: a table's id and the number of a room.
    pub(crate) fn list(&self, prefix: &[u8]) -> Result<List, EngineError> {
        let read = || self.engine.scan(prefix, &prefix_end(prefix), Direction::Forward).collect::<Result<List, _>>();
        if self.is_applying.load(Ordering::SeqCst) {
            return read();
        }
        if let Some(table) = prefix.first().filter(|table| !self.may_list(**table)) {
            self.listed[usize::from(*table)].store(true, Ordering::SeqCst);
        }
        match self.rows.get_value_or_guard(prefix, Some(Duration::ZERO)) {
            GuardResult::Value(Kept::List(rows)) => Ok(rows),
            GuardResult::Guard(guard) => {
                let rows = read()?;
                if bytes_of(&rows) <= VALUE_BYTES_MAX {
                    // Refused if one of the rows was written meanwhile.
                    let _ = guard.insert(Kept::List(rows.clone()));
                }
                Ok(rows)
            }
            GuardResult::Value(Kept::Row(_)) | GuardResult::Timeout => read(),
        }
    }

    /// A row that nobody has read lately need not be kept; but whoever is reading it just now must not keep what it was.
    fn refresh(&self, key: &[u8], value: Option<&Vec<u8>>) {
        let Some(table) = key.first().copied() else { return };
        if self.may_list(table)
            && let Some(list) = key.get(..LIST_KEY_BYTES)
        {
            self.rows.remove(list);
        }
        if !self.may_hold(table) {
            return;
        }
        match value.filter(|value| value.len() <= VALUE_BYTES_MAX && self.rows.contains_key(key)) {
            Some(value) => self.rows.insert(key.to_vec(), Kept::Row(Some(Bytes::copy_from_slice(value)))),
            None => drop(self.rows.remove(key)),
        }
    }

    /// Looks through everything that is kept, so it does so only for tables of which something may be.
    fn forget_range(&self, start: &[u8], end: &[u8]) {
        let (Some(first), Some(last)) = (start.first(), end.first()) else { return };
        if !(*first..=*last).any(|table| (self.may_hold(table) || self.may_list(table)) && *end != [table]) {
            return;
        }
        // The range may begin in the middle of a list.
        let start = start.get(..LIST_KEY_BYTES).unwrap_or(start);
        self.rows.retain(|key, _| !(start..end).contains(&key.as_slice()));
    }
}

/// For each table's id, whether it has rows.
fn find_tables(engine: &dyn Engine) -> [AtomicBool; 256] {
    let found = [const { AtomicBool::new(false) }; 256];
    let mut from = 0;
    while let Some(first) = engine.scan(&[from], &[u8::MAX], Direction::Forward).next() {
        let Some(table) = first.ok().and_then(|(key, _)| key.first().copied()) else {
            // What cannot be read may be anything.
            return [const { AtomicBool::new(true) }; 256];
        };
        found[usize::from(table)].store(true, Ordering::SeqCst);
        from = table + 1;
    }
    found
}

impl Engine for RowCache {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if self.is_applying.load(Ordering::SeqCst) {
            return self.engine.get(key);
        }
        if let Some(table) = key.first().filter(|table| !self.may_hold(**table)) {
            self.tables[usize::from(*table)].store(true, Ordering::SeqCst);
        }
        // Nobody waits for another reader of the same row.
        match self.rows.get_value_or_guard(key, Some(Duration::ZERO)) {
            GuardResult::Value(Kept::Row(row)) => Ok(row),
            GuardResult::Guard(guard) => {
                let row = self.engine.get(key)?;
                if row.as_ref().is_none_or(|value| value.len() <= VALUE_BYTES_MAX) {
                    // Refused if the row was written meanwhile.
                    let _ = guard.insert(Kept::Row(row.clone()));
                }
                Ok(row)
            }
            GuardResult::Value(Kept::List(_)) | GuardResult::Timeout => self.engine.get(key),
        }
    }

    fn scan<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
    ) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        self.engine.scan(start, end, direction)
    }

    /// Batches are applied one at a time: their author, the log, holds its lock.
    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        for write in writes {
            if let Write::Put { key, .. } = write
                && let Some(table) = key.first().filter(|table| !self.may_have_rows(**table))
            {
                self.written[usize::from(*table)].store(true, Ordering::SeqCst);
            }
        }
        self.is_applying.store(true, Ordering::SeqCst);
        let applied = self.engine.apply(writes);
        for write in writes {
            match write {
                Write::Put { key, value } => self.refresh(key, applied.is_ok().then_some(value)),
                Write::Delete { key } => self.refresh(key, None),
                Write::DeleteRange { start, end } => self.forget_range(start, end),
            }
        }
        self.is_applying.store(false, Ordering::SeqCst);
        applied
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.engine.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, thread};

    use super::*;
    use crate::MemoryEngine;

    crate::conformance_tests!(
        |_: &Path| Arc::new(RowCache::new(Arc::new(MemoryEngine::new()), 1 << 20)) as Arc<dyn Engine>
    );

    fn put(key: &[u8], value: u64) -> Write {
        Write::Put { key: key.to_vec(), value: value.to_be_bytes().to_vec() }
    }

    #[test]
    fn what_is_kept_is_replaced_and_deleted_with_the_row() {
        let cache = RowCache::new(Arc::new(MemoryEngine::new()), 1 << 20);
        let read = |key: &[u8]| cache.get(key).unwrap();
        assert_eq!(read(b"a"), None);
        cache.apply(&[put(b"a", 1), put(b"b", 1)]).unwrap();
        assert_eq!((read(b"a"), read(b"b")), (Some(1_u64.to_be_bytes().to_vec().into()), read(b"a")));
        cache.apply(&[put(b"a", 2), Write::Delete { key: b"b".to_vec() }]).unwrap();
        assert_eq!((read(b"a"), read(b"b")), (Some(2_u64.to_be_bytes().to_vec().into()), None));
        cache.apply(&[Write::DeleteRange { start: b"a".to_vec(), end: b"b".to_vec() }]).unwrap();
        assert_eq!(read(b"a"), None);
        let large = vec![7; VALUE_BYTES_MAX + 1];
        cache.apply(&[Write::Put { key: b"a".to_vec(), value: large.clone() }]).unwrap();
        assert_eq!(read(b"a"), Some(large.into()));
    }

    #[test]
    fn a_list_is_read_again_once_one_of_its_rows_is_written() {
        let engine = Arc::new(MemoryEngine::new());
        let cache = RowCache::new(engine.clone(), 1 << 20);
        let key = |room: u64, rest: &[u8]| [&[28], &room.to_be_bytes()[..], rest].concat();
        let list = |room: u64| -> Vec<Vec<u8>> {
            cache.list(&key(room, b"")).unwrap().iter().map(|(key, _)| key[LIST_KEY_BYTES..].to_vec()).collect()
        };
        cache.apply(&[put(&key(1, b"a"), 1), put(&key(1, b"b"), 1), put(&key(2, b"a"), 1)]).unwrap();
        assert_eq!((list(1).len(), list(2).len(), list(3).len()), (2, 1, 0));
        // What is written past the cache shows that it is read from there.
        engine.apply(&[put(&key(1, b"unseen"), 1)]).unwrap();
        assert_eq!(list(1).len(), 2);
        cache.apply(&[put(&key(1, b"c"), 1), put(&key(3, b"a"), 1)]).unwrap();
        assert_eq!((list(1).len(), list(2).len(), list(3).len()), (4, 1, 1));
        cache.apply(&[Write::Delete { key: key(2, b"a") }]).unwrap();
        cache.apply(&[Write::DeleteRange { start: key(1, b"b"), end: key(1, b"z") }]).unwrap();
        assert_eq!((list(1), list(2).len(), list(3).len()), (vec![b"a".to_vec()], 0, 1));
        let large = Write::Put { key: key(2, b"large"), value: vec![7; VALUE_BYTES_MAX] };
        cache.apply(&[large]).unwrap();
        assert_eq!(list(2).len(), 1);
        engine.apply(&[put(&key(2, b"seen"), 1)]).unwrap();
        assert_eq!(list(2).len(), 2, "what is large is not kept");
    }

    #[test]
    fn rows_of_a_batch_are_seen_together() {
        let cache = RowCache::new(Arc::new(MemoryEngine::new()), 1 << 20);
        cache.apply(&[put(b"first", 0), put(b"second", 0)]).unwrap();
        let number = |key: &[u8]| u64::from_be_bytes(cache.get(key).unwrap().unwrap()[..].try_into().unwrap());
        thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut seen = 0;
                        while seen < 20_000 {
                            let first = number(b"first");
                            let second = number(b"second");
                            assert!(first >= seen, "{first} came after {seen}");
                            assert!(second >= first, "{second} was read after {first}");
                            seen = first;
                        }
                    })
                })
                .collect();
            for value in 1..=20_000 {
                cache.apply(&[put(b"first", value), put(b"second", value)]).unwrap();
                // Every few batches the readers have to fetch the rows anew.
                if value % 64 == 0 {
                    cache.rows.clear();
                }
            }
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
    }
}
