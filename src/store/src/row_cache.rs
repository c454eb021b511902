//! Rows that are read again and again, kept in memory: one lookup in place of a search through the engine's buffers and files.
//!
//! It stands between the store and its engine, sees every write, and is never behind: a row that is written is replaced or dropped before the write
//! returns. While a batch is being applied nothing is read from here, so that a reader who has seen one row of a batch sees the others too.
//! Which tables are read through it their declarations say ([`Table::cached`](crate::table::Table::cached)); scans go past it.

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

use crate::engine::{Direction, Engine, EngineError, ScanItem, Write};

/// The largest value that is kept, in bytes.
const VALUE_BYTES_MAX: usize = 4 << 10;
/// What an entry takes beside its key and value, in bytes: its place in the cache, and three allocations.
const ENTRY_BYTES: u64 = 200;
/// How many bytes of the cache an entry is expected to take.
const ENTRY_BYTES_EXPECTED: u64 = 280;
/// How many keys are remembered of rows that are kept no more, as a share of those that are.
const GHOSTS: f64 = 0.1;

/// A row's value, or that there is none.
type Row = Option<Bytes>;

/// An engine whose point reads are answered from memory where they can be.
pub struct RowCache {
    engine: Arc<dyn Engine>,
    rows: Cache<Vec<u8>, Row, WeightByBytes>,
    /// A batch is being applied: of its rows the engine may have one state, and the cache another.
    is_applying: AtomicBool,
    /// For each table's id, whether rows of it may be here.
    tables: [AtomicBool; 256],
}

#[derive(Clone)]
struct WeightByBytes;

impl Weighter<Vec<u8>, Row> for WeightByBytes {
    fn weight(&self, key: &Vec<u8>, row: &Row) -> u64 {
        let bytes = key.len() + row.as_ref().map_or(0, Bytes::len);
        ENTRY_BYTES + u64::try_from(bytes).unwrap_or(u64::MAX - ENTRY_BYTES)
    }
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
        Self { engine, rows, is_applying: AtomicBool::new(false), tables: [const { AtomicBool::new(false) }; 256] }
    }

    /// Keys begin with the id of their table.
    fn may_hold(&self, table: u8) -> bool {
        self.tables[usize::from(table)].load(Ordering::SeqCst)
    }

    /// A row that nobody has read lately need not be kept; but whoever is reading it just now must not keep what it was.
    fn refresh(&self, key: &[u8], value: Option<&Vec<u8>>) {
        if !key.first().is_some_and(|table| self.may_hold(*table)) {
            return;
        }
        match value.filter(|value| value.len() <= VALUE_BYTES_MAX && self.rows.contains_key(key)) {
            Some(value) => self.rows.insert(key.to_vec(), Some(Bytes::copy_from_slice(value))),
            None => drop(self.rows.remove(key)),
        }
    }

    /// Looks through everything that is kept, so it does so only for tables of which something may be.
    fn forget_range(&self, start: &[u8], end: &[u8]) {
        let (Some(first), Some(last)) = (start.first(), end.first()) else { return };
        if !(*first..=*last).any(|table| self.may_hold(table) && *end != [table]) {
            return;
        }
        self.rows.retain(|key, _| !(start..end).contains(&key.as_slice()));
    }
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
            GuardResult::Value(row) => Ok(row),
            GuardResult::Guard(guard) => {
                let row = self.engine.get(key)?;
                if row.as_ref().is_none_or(|value| value.len() <= VALUE_BYTES_MAX) {
                    // Refused if the row was written meanwhile.
                    let _ = guard.insert(row.clone());
                }
                Ok(row)
            }
            GuardResult::Timeout => self.engine.get(key),
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
