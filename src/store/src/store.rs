//! The store's front: typed reads, and commits through the log.

use std::{path::Path, sync::Arc};

use bytes::Bytes;

use crate::{
    batch::{Batch, Domain, Topic},
    engine::{Direction, Engine, EngineError, ScanItem},
    ids::Position,
    interner::Interner,
    key::{Key, KeyReader},
    log::{CommitError, Durability, Log, OpenError, Ticket},
    record::{DecodeError, Value},
    row_cache::{LIST_KEY_BYTES, RowCache},
    table::{Table, prefix_end},
    tables,
};

/// A read that failed: the engine's trouble, or a stored value that does not decode. Never "not there": that is `None`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("table {table}: {cause}")]
    Decode { table: &'static str, cause: DecodeError },
}

/// How a store treats the disk and memory.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    pub durability: Durability,
    /// Memory for rows that are read again and again.
    pub row_cache_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { durability: Durability::Fsync, row_cache_bytes: 12 << 20 }
    }
}

type Items<'a> = Box<dyn Iterator<Item = ScanItem> + Send + 'a>;

/// A cheap handle to the one store of this process.
#[derive(Clone)]
pub struct Store {
    engine: Arc<dyn Engine>,
    /// The same engine, behind a cache of rows. All writes go through it.
    rows: Arc<RowCache>,
    log: Arc<Log>,
    interner: Arc<Interner>,
}

impl Store {
    /// Opens the log in `log_dir` and brings the engine up to its end.
    pub fn open(engine: Arc<dyn Engine>, log_dir: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        let rows = Arc::new(RowCache::new(engine.clone(), options.row_cache_bytes));
        let log = Log::open(rows.clone(), log_dir, options.durability)?;
        Self::assemble(engine, rows, log)
    }

    /// A store whose log is not kept: for tests and simulation.
    pub fn in_memory() -> Self {
        match Self::volatile(Arc::new(crate::MemoryEngine::new())) {
            Ok(store) => store,
            // An empty memory engine has nothing that could fail to be read.
            Err(error) => unreachable!("empty in-memory store: {error}"),
        }
    }

    /// As [`Store::in_memory`], over an engine that may be that of an earlier store: what simulations take for a restart.
    pub fn volatile(engine: Arc<dyn Engine>) -> Result<Self, OpenError> {
        let rows = Arc::new(RowCache::new(engine.clone(), StoreOptions::default().row_cache_bytes));
        let log = Log::volatile(rows.clone());
        Self::assemble(engine, rows, log)
    }

    fn assemble(engine: Arc<dyn Engine>, rows: Arc<RowCache>, log: Log) -> Result<Self, OpenError> {
        let interner = Arc::new(Interner::load(engine.as_ref())?);
        Ok(Self { engine, rows, log: Arc::new(log), interner })
    }

    pub fn get<K: Key, V: Value>(&self, table: &Table<K, V>, key: &K) -> Result<Option<V>, StoreError> {
        if !self.rows.may_have_rows(table.id) {
            return Ok(None);
        }
        let key = table.key(key);
        if key.invalid {
            return Ok(None);
        }
        let Some(bytes) = self.get_bytes(table, &key.bytes)? else { return Ok(None) };
        V::decode(&bytes).map(Some).map_err(|cause| StoreError::Decode { table: table.name, cause })
    }

    /// The values of several keys, in the order of the keys: for tables whose rows are not kept in memory.
    pub fn get_many<K: Key, V: Value>(&self, table: &Table<K, V>, keys: &[K]) -> Result<Vec<Option<V>>, StoreError> {
        let encoded = keys.iter().map(|key| table.key(key)).enumerate();
        let mut sorted: Vec<(Vec<u8>, usize)> =
            encoded.filter(|(_, key)| !key.invalid).map(|(at, key)| (key.bytes, at)).collect();
        sorted.sort_unstable();
        let (sorted, places): (Vec<_>, Vec<_>) = sorted.into_iter().unzip();
        let mut values = Vec::new();
        values.resize_with(keys.len(), || None);
        for (bytes, at) in self.engine.get_many(&sorted)?.into_iter().zip(places) {
            let value = bytes.map(|bytes| V::decode(&bytes)).transpose();
            if let Some(slot) = values.get_mut(at) {
                *slot = value.map_err(|cause| StoreError::Decode { table: table.name, cause })?;
            }
        }
        Ok(values)
    }

    pub fn contains<K: Key, V: Value>(&self, table: &Table<K, V>, key: &K) -> Result<bool, StoreError> {
        if !self.rows.may_have_rows(table.id) {
            return Ok(false);
        }
        let key = table.key(key);
        Ok(!key.invalid && self.get_bytes(table, &key.bytes)?.is_some())
    }

    fn get_bytes<K, V>(&self, table: &Table<K, V>, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if table.is_cached { self.rows.get(key) } else { self.engine.get(key) }
    }

    /// The rows whose key begins with `prefix` (the first parts of the key, as a tuple; `&()` for all rows), in key order.
    pub fn scan<'a, K: Key, V: Value, P: Key>(
        &'a self,
        table: &'a Table<K, V>,
        prefix: &P,
        direction: Direction,
    ) -> impl Iterator<Item = Result<(K, V), StoreError>> + use<'a, K, V, P> {
        let start = table.key(prefix).bytes;
        let items = match table.is_listed && start.len() == LIST_KEY_BYTES && direction == Direction::Forward {
            true => self.list(&start),
            false => self.scan_bytes(table, &start, &prefix_end(&start), direction),
        };
        decode_items(table, items)
    }

    /// The rows with keys in `start..end` (either may be only the first parts of a key).
    pub fn scan_range<'a, K: Key, V: Value, S: Key, E: Key>(
        &'a self,
        table: &'a Table<K, V>,
        start: &S,
        end: &E,
        direction: Direction,
    ) -> impl Iterator<Item = Result<(K, V), StoreError>> + use<'a, K, V, S, E> {
        decode_items(table, self.scan_bytes(table, &table.key(start).bytes, &table.key(end).bytes, direction))
    }

    fn scan_bytes<K, V>(&self, table: &Table<K, V>, start: &[u8], end: &[u8], direction: Direction) -> Items<'_> {
        match self.rows.may_have_rows(table.id) {
            true => self.engine.scan(start, end, direction),
            false => Box::new(std::iter::empty()),
        }
    }

    /// As [`Engine::scan`], from memory where the rows are kept there.
    fn list(&self, prefix: &[u8]) -> Items<'static> {
        match self.rows.list(prefix) {
            Ok(rows) => Box::new((0..rows.len()).filter_map(move |at| rows.get(at).cloned().map(Ok))),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    /// Reads every row of every table, as the engine has them, so that it finds what is damaged. Answers how many rows there are.
    pub fn read_all(&self, mut failed: impl FnMut(EngineError)) -> u64 {
        let mut rows = 0;
        for item in self.engine.scan(&[0], &[u8::MAX], Direction::Forward) {
            match item {
                Ok(_) => rows += 1,
                Err(error) => failed(error),
            }
        }
        rows
    }

    /// The version of a consistency domain: the position of the last batch guarded by it; zero if there was none.
    pub fn domain_version(&self, domain: &Domain) -> Result<Position, StoreError> {
        Ok(self.get(&tables::domains::DOMAINS, &domain.name())?.unwrap_or_default())
    }

    /// Appends a batch to the log and applies it, without waiting until it is durable.
    ///
    /// Reads see the batch at once; answers to the outside must wait for [`Ticket::durable`]. This is what lets the next event
    /// of a room be computed while the disk still flushes the one before.
    pub fn enqueue(&self, batch: Batch) -> Result<Ticket, CommitError> {
        self.log.enqueue(batch)
    }

    /// Commits a batch: returns once it is durable and its topics have been woken. The answer is the position that the batch's
    /// first [`Batch::next_position`] stood for.
    pub async fn commit(&self, batch: Batch) -> Result<Position, CommitError> {
        self.log.enqueue(batch)?.durable().await
    }

    /// Waits until everything enqueued so far is durable: what a write that finds its work already done owes its caller.
    pub async fn barrier(&self) -> Result<(), CommitError> {
        self.log.barrier().durable().await.map(|_| ())
    }

    /// The position up to which everything is durable. Followers of the log read up to here.
    pub fn durable_position(&self) -> Position {
        self.log.durable_position()
    }

    /// Calls `observer` with the new durable position and the topics to wake, each time the log becomes durable further. It runs on the log's
    /// own thread: it must only set flags and wake wakers.
    pub fn observe(&self, observer: impl Fn(Position, &[Topic]) + Send + Sync + 'static) {
        self.log.observe(Box::new(observer));
    }

    /// Why writes have stopped, if they have (a failed flush, a full disk).
    pub fn write_fault(&self) -> Option<String> {
        self.log.write_fault()
    }

    /// Flushes everything and closes the log. Later commits fail.
    pub fn close(&self) -> Result<(), EngineError> {
        self.log.close()
    }

    pub fn interner(&self) -> &Interner {
        &self.interner
    }
}

fn decode_items<'a, K: Key, V: Value>(
    table: &'a Table<K, V>,
    items: Items<'a>,
) -> impl Iterator<Item = Result<(K, V), StoreError>> + 'a {
    let decode = |key: &[u8], value: &[u8]| -> Result<(K, V), DecodeError> {
        Ok((K::decode(&mut KeyReader::new(key.get(1..).unwrap_or_default()))?, V::decode(value)?))
    };
    items.map(move |item| {
        let (key, value) = item?;
        decode(&key, &value).map_err(|cause| StoreError::Decode { table: table.name, cause })
    })
}
