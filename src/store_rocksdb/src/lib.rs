//! The RocksDB engine: the one crate that links RocksDB.
//!
//! One column family; keys begin with their table's id. RocksDB's own write-ahead log is off: the store's log stands in front of the
//! engine, and replays what RocksDB had not yet written to its files. Nothing here knows tables or positions.
//!
//! **A full disk.** When RocksDB cannot write its files it refuses further writes ([`EngineError::is_full`]), and its own file manager
//! looks every few seconds whether there is space again; writes then succeed without a restart. Rust's binding offers no way to hurry
//! this.

use std::path::Path;

use bytes::Bytes;
use chappe_store::{
    Direction, Engine, EngineError, Write,
    engine::{NO_SPACE, ScanItem},
};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIteratorWithThreadMode,
    DEFAULT_COLUMN_FAMILY_NAME, DataBlockIndexType, FlushOptions, LogLevel, Options, ReadOptions, SliceTransform,
    WriteBatch, WriteOptions,
};

/// How many written buffers are merged into the first level at a time.
const BUFFERS_PER_MERGE: u8 = 8;

/// Filters also know keys by so many of their first bytes: a table's id, and the room's number where the key begins with one. Files without
/// such keys are passed over by who scans them.
const PREFIX_BYTES: usize = 9;

/// How large a piece of an index or filter is.
const METADATA_BLOCK_BYTES: usize = 4 << 10;

/// How much memory, threads and files RocksDB may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksOptions {
    /// Bytes of memory for blocks read from disk, their indexes and filters included.
    pub cache_bytes: usize,
    /// Bytes collected in memory before they are written to a file. Up to three such buffers exist at a time.
    pub write_buffer_bytes: usize,
    /// Threads that write and compact files.
    pub background_jobs: u16,
    /// Files kept open at a time.
    pub open_files_max: u16,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20, write_buffer_bytes: 8 << 20, background_jobs: 2, open_files_max: 512 }
    }
}

/// An open RocksDB database.
pub struct RocksEngine {
    db: DB,
}

impl RocksEngine {
    /// Opens the database in `path`, or makes it.
    ///
    /// # Errors
    /// Fails if another process has it open, and if it is damaged.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<Self, EngineError> {
        std::fs::create_dir_all(path).map_err(|error| EngineError(format!("{}: {error}", path.display())))?;
        let options = database_options(options);
        // Named, so that there is a handle of it.
        match DB::open_cf_with_opts(&options, path, [(DEFAULT_COLUMN_FAMILY_NAME, options.clone())]) {
            Ok(db) => Ok(Self { db }),
            Err(error) if is_locked(&error) => {
                Err(EngineError(format!("{} is in use by another process; stop it first ({error})", path.display())))
            }
            Err(error) => {
                let EngineError(what) = engine_error(error.as_ref());
                Err(EngineError(format!("{}: {what}", path.display())))
            }
        }
    }
}

fn database_options(options: &RocksOptions) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(options.cache_bytes));
    blocks.set_block_size(8 << 10);
    // Most point reads are for keys that may not exist (is this event known?): the filter answers them without a read.
    blocks.set_bloom_filter(10.0, false);
    blocks.set_whole_key_filtering(true);
    blocks.set_optimize_filters_for_memory(true);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    // Indexes and filters count against the cache, so that memory stays bounded as the database grows. They are cut into pieces: a filter of
    // millions of small rows, whole, is larger than a shard of the cache, and would be read again for each key.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(METADATA_BLOCK_BYTES);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut database = Options::default();
    database.create_if_missing(true);
    database.set_block_based_table_factory(&blocks);
    database.set_prefix_extractor(SliceTransform::create_fixed_prefix(PREFIX_BYTES));
    database.set_paranoid_checks(true);
    // On every level: while the database is small each merge writes to the last level, and to compress that more densely took a quarter of
    // the processor time under load. (Zstandard stays built in: earlier versions wrote such files.)
    database.set_compression_type(DBCompressionType::Lz4);
    let buffer_bytes = u64::try_from(options.write_buffer_bytes).unwrap_or(u64::MAX);
    database.set_write_buffer_size(options.write_buffer_bytes);
    database.set_max_write_buffer_number(3);
    // The first level holds as much as is merged into it at a time, for it is written anew each time.
    database.set_level_zero_file_num_compaction_trigger(BUFFERS_PER_MERGE.into());
    database.set_max_bytes_for_level_base(buffer_bytes.saturating_mul(BUFFERS_PER_MERGE.into()));
    database.set_target_file_size_base(buffer_bytes.saturating_mul(2));
    database.set_memtable_whole_key_filtering(true);
    database.set_memtable_prefix_bloom_ratio(0.02);
    database.set_max_background_jobs(i32::from(options.background_jobs));
    database.set_max_open_files(i32::from(options.open_files_max));
    // Spread the writing back of large files, so that the log's fsync does not wait behind them.
    database.set_bytes_per_sync(1 << 20);
    database.set_log_level(LogLevel::Warn);
    database.set_max_log_file_size(8 << 20);
    database.set_keep_log_file_num(4);
    database.set_stats_dump_period_sec(0);
    database
}

impl Engine for RocksEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let value = self.db.get_pinned(key).map_err(|error| engine_error(error.as_ref()))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        let Some(family) = self.db.cf_handle(DEFAULT_COLUMN_FAMILY_NAME) else {
            return Err(EngineError("there is no default column family".to_owned()));
        };
        let values = self.db.batched_multi_get_cf(&family, keys, true).into_iter();
        values
            .map(|value| match value {
                Ok(value) => Ok(value.map(|value| Bytes::copy_from_slice(&value))),
                Err(error) => Err(engine_error(error.as_ref())),
            })
            .collect()
    }

    fn scan<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
    ) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        if start >= end {
            return Box::new(std::iter::empty());
        }
        let mut bounds = ReadOptions::default();
        bounds.set_iterate_lower_bound(start);
        bounds.set_iterate_upper_bound(end);
        // What is looked for in filters is the prefix of the bound that the scan begins at.
        let is_of_one_prefix = direction == Direction::Forward && is_within_prefix(start, end);
        bounds.set_prefix_same_as_start(is_of_one_prefix);
        bounds.set_total_order_seek(!is_of_one_prefix);
        let mut rows = self.db.raw_iterator_opt(bounds);
        match direction {
            Direction::Forward => rows.seek_to_first(),
            Direction::Reverse => rows.seek_to_last(),
        }
        Box::new(Scan { rows, direction, at: At::Row })
    }

    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        let mut batch = WriteBatch::default();
        for write in writes {
            match write {
                Write::Put { key, value } => batch.put(key, value),
                Write::Delete { key } => batch.delete(key),
                // RocksDB refuses ranges that end before they start; here they are empty.
                Write::DeleteRange { start, end } if start >= end => {}
                Write::DeleteRange { start, end } => batch.delete_range(start, end),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(|error| engine_error(error.as_ref()))
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(|error| engine_error(error.as_ref()))
    }
}

struct Scan<'a> {
    rows: DBRawIteratorWithThreadMode<'a, DB>,
    direction: Direction,
    at: At,
}

#[derive(PartialEq, Eq)]
enum At {
    /// The iterator stands on a row that has not been given out, or has come to its end.
    Row,
    /// The iterator stands on the row given out last.
    Given,
    End,
}

impl Iterator for Scan<'_> {
    type Item = ScanItem;

    fn next(&mut self) -> Option<ScanItem> {
        match (&self.at, self.direction) {
            (At::End, _) => return None,
            (At::Row, _) => {}
            (At::Given, Direction::Forward) => self.rows.next(),
            (At::Given, Direction::Reverse) => self.rows.prev(),
        }
        if let Some((key, value)) = self.rows.item() {
            self.at = At::Given;
            return Some(Ok((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))));
        }
        self.at = At::End;
        // A block that cannot be read ends the iterator as if there were no more rows; its status tells the difference.
        self.rows.status().err().map(|error| Err(engine_error(error.as_ref())))
    }
}

/// Whether all keys in `start..end` begin with the same [`PREFIX_BYTES`].
fn is_within_prefix(start: &[u8], end: &[u8]) -> bool {
    let Some(mut next_prefix) = start.first_chunk::<PREFIX_BYTES>().copied() else { return false };
    for byte in next_prefix.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    end <= &next_prefix[..]
}

fn is_locked(error: &rocksdb::Error) -> bool {
    let text: &str = error.as_ref();
    text.contains("While lock file") || text.contains("lock hold by current process")
}

fn engine_error(text: &str) -> EngineError {
    let full =
        ["No space left on device", "Disk quota exceeded", "Space limit reached", "Max allowed space was reached"];
    if full.iter().any(|sign| text.contains(sign)) {
        EngineError(format!("{NO_SPACE} ({text})"))
    } else {
        EngineError(text.to_owned())
    }
}

#[cfg(test)]
mod tests;
