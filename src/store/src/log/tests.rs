//! The log under damage, full disks, failed flushes and an engine that refuses.

use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{segment::SegmentFile, *};
use crate::{MemoryEngine, conformance::block_on, engine::NO_SPACE, ids::RoomNid, table::Table};

const ROWS: Table<u64, String> = Table::new(250, "rows");

/// Faults that a test switches on, and counts of what was done.
#[derive(Default)]
struct Faults {
    /// Appends write half a frame, then find the disk full.
    full: AtomicBool,
    /// No new segment can be made.
    create_full: AtomicBool,
    sync_fails: AtomicBool,
    sync_millis: AtomicU64,
    syncs: AtomicU64,
}

struct FaultyFiles {
    files: Directory,
    faults: Arc<Faults>,
}

struct FaultyFile {
    file: Arc<dyn SegmentFile>,
    faults: Arc<Faults>,
}

impl FaultyFiles {
    fn wrap(&self, file: Arc<dyn SegmentFile>) -> Arc<dyn SegmentFile> {
        Arc::new(FaultyFile { file, faults: self.faults.clone() })
    }
}

impl Files for FaultyFiles {
    fn list(&self) -> io::Result<Vec<Position>> {
        self.files.list()
    }
    fn create(&self, first: Position, bytes: u64) -> io::Result<Arc<dyn SegmentFile>> {
        if self.faults.create_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.files.create(first, bytes).map(|file| self.wrap(file))
    }
    fn open(&self, first: Position) -> io::Result<Arc<dyn SegmentFile>> {
        self.files.open(first).map(|file| self.wrap(file))
    }
    fn remove(&self, first: Position) -> io::Result<()> {
        self.files.remove(first)
    }
    fn path(&self, first: Position) -> PathBuf {
        self.files.path(first)
    }
}

impl SegmentFile for FaultyFile {
    fn read(&self) -> io::Result<Vec<u8>> {
        self.file.read()
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.faults.full.load(Ordering::SeqCst) {
            self.file.write_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(self.faults.sync_millis.load(Ordering::SeqCst)));
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        if self.faults.sync_fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected"));
        }
        self.file.sync()
    }
    fn erase_from(&self, offset: u64) -> io::Result<()> {
        self.file.erase_from(offset)
    }
}

/// An engine that a test can make refuse.
#[derive(Default)]
struct FaultyEngine {
    engine: MemoryEngine,
    full: AtomicBool,
}

impl Engine for FaultyEngine {
    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, EngineError> {
        self.engine.get(key)
    }
    fn scan<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        direction: crate::Direction,
    ) -> Box<dyn Iterator<Item = crate::engine::ScanItem> + Send + 'a> {
        self.engine.scan(start, end, direction)
    }
    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(EngineError(NO_SPACE.to_owned()));
        }
        self.engine.apply(writes)
    }
    fn flush(&self) -> Result<(), EngineError> {
        self.engine.flush()
    }
}

struct Bench {
    dir: TempDir,
    faults: Arc<Faults>,
    segment_bytes: u64,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), faults: Arc::default(), segment_bytes: 16 << 10 }
    }

    fn try_open(&self, engine: Arc<dyn Engine>, durability: Durability) -> Result<Log, OpenError> {
        let files = FaultyFiles { files: Directory::create(self.dir.path()).unwrap(), faults: self.faults.clone() };
        Log::open_with(engine, Box::new(files), self.dir.path(), durability, self.segment_bytes)
    }

    /// The log on an engine that has nothing yet.
    fn open(&self) -> (Log, Arc<MemoryEngine>) {
        let engine = Arc::new(MemoryEngine::new());
        (self.try_open(engine.clone(), Durability::Fsync).unwrap(), engine)
    }

    fn open_error(&self) -> String {
        match self.try_open(Arc::new(MemoryEngine::new()), Durability::Fsync) {
            Ok(_) => panic!("the log should have been refused"),
            Err(error @ OpenError::Corrupt { .. }) => error.to_string(),
            Err(other) => panic!("expected corruption, got {other}"),
        }
    }

    fn segments(&self) -> Vec<PathBuf> {
        let directory = Directory::create(self.dir.path()).unwrap();
        directory.list().unwrap().into_iter().map(|first| directory.path(first)).collect()
    }

    /// Changes the bytes of the log's last segment.
    fn damage(&self, change: impl FnOnce(&mut Vec<u8>, &[usize])) {
        let path = self.segments().pop().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let mut offsets = vec![0];
        while let frame::Parsed::Frame(frame) = frame::parse(&bytes[*offsets.last().unwrap()..]) {
            offsets.push(offsets.last().unwrap() + frame.len);
        }
        change(&mut bytes, &offsets);
        std::fs::write(&path, bytes).unwrap();
    }
}

fn row(number: u64, value: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(&ROWS, &number, &value.to_owned());
    batch
}

fn commit(log: &Log, batch: Batch) -> Result<Position, CommitError> {
    block_on(log.enqueue(batch)?.durable())
}

fn commit_rows(log: &Log, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(commit(log, row(number, &format!("value {number}"))).unwrap(), Position(number));
    }
}

fn get_row(engine: &dyn Engine, number: u64) -> Option<String> {
    engine.get(&ROWS.key(&number).bytes).unwrap().map(|bytes| String::decode(&bytes).unwrap())
}

fn check_rows(engine: &dyn Engine, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(get_row(engine, number), Some(format!("value {number}")), "row {number}");
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_torn_tail_is_cut_off_and_the_log_goes_on() {
    for torn_bytes in [1, 20, 31, 33, 50] {
        let bench = Bench::new();
        let (log, _) = bench.open();
        commit_rows(&log, 1..=5);
        drop(log);
        bench.damage(|bytes, offsets| {
            let [.., start, end] = offsets else { panic!("no frames") };
            bytes[start + torn_bytes..*end].fill(0);
        });
        let (log, engine) = bench.open();
        assert_eq!(log.durable_position(), Position(4), "torn after {torn_bytes} bytes");
        check_rows(engine.as_ref(), 1..=4);
        assert_eq!(get_row(engine.as_ref(), 5), None);
        assert_eq!(commit(&log, row(5, "value 5")).unwrap(), Position(5));
        drop(log);
        let (log, engine) = bench.open();
        assert_eq!(log.durable_position(), Position(5));
        check_rows(engine.as_ref(), 1..=5);
    }
}

#[test]
fn a_file_cut_short_in_a_frame_is_a_torn_tail() {
    let bench = Bench::new();
    let (log, _) = bench.open();
    commit_rows(&log, 1..=3);
    drop(log);
    bench.damage(|bytes, offsets| bytes.truncate(offsets[2] + 10));
    let (log, engine) = bench.open();
    assert_eq!(log.durable_position(), Position(2));
    check_rows(engine.as_ref(), 1..=2);
    commit_rows(&log, 3..=4);
    drop(log);
    check_rows(bench.open().1.as_ref(), 1..=4);
}

#[test]
fn garbage_behind_the_last_frame_is_a_torn_tail() {
    let bench = Bench::new();
    let (log, _) = bench.open();
    commit_rows(&log, 1..=3);
    drop(log);
    bench.damage(|bytes, offsets| bytes[offsets[3]..offsets[3] + 700].fill(0xC4));
    let (log, engine) = bench.open();
    check_rows(engine.as_ref(), 1..=3);
    commit_rows(&log, 4..=4);
    drop(log);
    check_rows(bench.open().1.as_ref(), 1..=4);
}

#[test]
fn damage_to_an_acknowledged_batch_is_refused_and_left_as_it_is() {
    for damaged in 0..4 {
        let bench = Bench::new();
        let (log, _) = bench.open();
        commit_rows(&log, 1..=5);
        drop(log);
        bench.damage(|bytes, offsets| bytes[offsets[damaged] + 40] ^= 1);
        let before = std::fs::read(bench.segments().pop().unwrap()).unwrap();
        let error = bench.open_error();
        assert!(error.contains("00000000000000000001.log"), "{error}");
        assert!(error.contains(&format!("the batch at position {} is damaged", damaged + 1)), "{error}");
        assert!(error.contains("backup"), "{error}");
        assert_eq!(before, std::fs::read(bench.segments().pop().unwrap()).unwrap());
    }
}

#[test]
fn an_unacknowledged_batch_is_cut_off_with_what_follows_it() {
    // Two batches that waited for the same flush: the disk may have kept the second and not the first.
    let bench = Bench::new();
    let (log, _) = bench.open();
    commit_rows(&log, 1..=2);
    bench.faults.sync_millis.store(200, Ordering::SeqCst);
    let tickets: Vec<_> = (3..=5).map(|number| log.enqueue(row(number, "lost")).unwrap()).collect();
    drop(tickets);
    drop(log);
    bench.faults.sync_millis.store(0, Ordering::SeqCst);
    bench.damage(|bytes, offsets| bytes[offsets[2]..offsets[3]].fill(0));
    let (log, engine) = bench.open();
    assert_eq!(log.durable_position(), Position(2));
    assert_eq!(get_row(engine.as_ref(), 4), None);
    commit_rows(&log, 3..=3);
    drop(log);
    let (log, engine) = bench.open();
    assert_eq!(log.durable_position(), Position(3), "nothing of the old tail comes back behind the new batch");
    check_rows(engine.as_ref(), 1..=3);
}

#[test]
fn segments_rotate_and_are_removed_once_the_engine_has_them() {
    let bench = Bench::new();
    let (log, engine) = bench.open();
    let large = "x".repeat(3000);
    for number in 1..=60 {
        commit(&log, row(number, &large)).unwrap();
    }
    wait_until("one segment is left", || bench.segments().len() == 1);
    let first: u64 = bench.segments()[0].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    assert!(first > 50, "{first}");
    commit(&log, row(61, &large)).unwrap();
    log.close().unwrap();
    drop(log);
    let log = bench.try_open(engine, Durability::Fsync).unwrap();
    assert_eq!(log.durable_position(), Position(61));
    drop(log);
    // The engine's memory is gone, and with it what only the removed segments had.
    let error = bench.open_error();
    assert!(error.contains("log files are missing, or the database is older than the log"), "{error}");
}

#[test]
fn a_batch_larger_than_a_segment_is_taken() {
    let bench = Bench::new();
    let engine = Arc::new(KeepSegments(MemoryEngine::new()));
    let log = bench.try_open(engine, Durability::Fsync).unwrap();
    let huge = "x".repeat(100_000);
    for number in 1..=3 {
        commit(&log, row(number, &huge)).unwrap();
    }
    drop(log);
    let (log, engine) = bench.open();
    assert_eq!(log.durable_position(), Position(3));
    assert_eq!(get_row(engine.as_ref(), 2), Some(huge));
}

/// An engine whose flush fails, so that segments stay.
struct KeepSegments(MemoryEngine);

impl Engine for KeepSegments {
    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, EngineError> {
        self.0.get(key)
    }
    fn scan<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        direction: crate::Direction,
    ) -> Box<dyn Iterator<Item = crate::engine::ScanItem> + Send + 'a> {
        self.0.scan(start, end, direction)
    }
    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        self.0.apply(writes)
    }
    fn flush(&self) -> Result<(), EngineError> {
        Err(EngineError("not now".to_owned()))
    }
}

/// A log of several segments, all of them kept.
fn bench_with_segments() -> Bench {
    let bench = Bench { segment_bytes: 500, ..Bench::new() };
    let log = bench.try_open(Arc::new(KeepSegments(MemoryEngine::new())), Durability::Fsync).unwrap();
    commit_rows(&log, 1..=20);
    drop(log);
    assert!(bench.segments().len() > 3, "{:?}", bench.segments());
    bench
}

#[test]
fn several_segments_are_replayed_in_order() {
    let bench = bench_with_segments();
    let engine = Arc::new(KeepSegments(MemoryEngine::new()));
    let log = bench.try_open(engine.clone(), Durability::Fsync).unwrap();
    assert_eq!(log.durable_position(), Position(20));
    check_rows(engine.as_ref(), 1..=20);
}

#[test]
fn damage_in_an_earlier_segment_is_refused() {
    let bench = bench_with_segments();
    let path = &bench.segments()[1];
    let mut bytes = std::fs::read(path).unwrap();
    bytes[45] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let error = bench.open_error();
    assert!(error.contains(path.file_name().unwrap().to_str().unwrap()) && error.contains("byte 0"), "{error}");
}

#[test]
fn a_missing_segment_is_refused_wherever_it_was() {
    for gone in 0..3 {
        let bench = bench_with_segments();
        let segments = bench.segments();
        let gone = if gone == 2 { segments.len() - 1 } else { gone };
        std::fs::remove_file(&segments[gone]).unwrap();
        let error = bench.open_error();
        assert!(error.contains("missing"), "{error}");
    }
}

#[test]
fn a_log_that_is_gone_is_refused_by_a_database_that_had_one() {
    let bench = Bench::new();
    let (log, engine) = bench.open();
    commit_rows(&log, 1..=3);
    drop(log);
    std::fs::remove_file(bench.segments().pop().unwrap()).unwrap();
    match bench.try_open(engine, Durability::Fsync) {
        Err(OpenError::Corrupt { what, .. }) => assert!(what.contains("up to position 3"), "{what}"),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_log_that_ends_before_the_engine_goes_on_behind_it() {
    // The engine wrote its memory to disk before the log's flush, then the power went.
    let bench = Bench::new();
    let (log, engine) = bench.open();
    commit_rows(&log, 1..=5);
    drop(log);
    bench.damage(|bytes, offsets| bytes[offsets[3]..].fill(0));
    let log = bench.try_open(engine.clone(), Durability::Fsync).unwrap();
    assert_eq!(log.durable_position(), Position(5));
    commit_rows(&log, 6..=7);
    drop(log);
    let log = bench.try_open(engine.clone(), Durability::Fsync).unwrap();
    assert_eq!(log.durable_position(), Position(7));
    check_rows(engine.as_ref(), 1..=7);
}

#[test]
fn a_full_disk_takes_nothing_and_recovers() {
    let bench = Bench::new();
    let (log, engine) = bench.open();
    commit_rows(&log, 1..=2);
    bench.faults.full.store(true, Ordering::SeqCst);
    let long = "half of this gets to the disk ".repeat(20);
    assert!(matches!(commit(&log, row(3, &long)), Err(CommitError::Full)));
    assert!(log.write_fault().is_some());
    assert_eq!(get_row(engine.as_ref(), 3), None);
    bench.faults.full.store(false, Ordering::SeqCst);
    commit_rows(&log, 3..=4);
    assert_eq!(log.write_fault(), None);
    drop(log);
    let (log, engine) = bench.open();
    assert_eq!(log.durable_position(), Position(4));
    check_rows(engine.as_ref(), 1..=4);
}

#[test]
fn no_space_for_the_next_segment_is_a_full_disk() {
    let bench = Bench { segment_bytes: 500, ..Bench::new() };
    let (log, _) = bench.open();
    bench.faults.create_full.store(true, Ordering::SeqCst);
    let committed =
        (1..=20).take_while(|number| commit(&log, row(*number, &format!("value {number}"))).is_ok()).count() as u64;
    assert!((1..20).contains(&committed));
    assert!(matches!(commit(&log, row(99, "x")), Err(CommitError::Full)));
    bench.faults.create_full.store(false, Ordering::SeqCst);
    commit_rows(&log, committed + 1..=20);
}

#[test]
fn a_failed_flush_stops_writes_for_good() {
    let bench = Bench::new();
    let (log, _) = bench.open();
    commit_rows(&log, 1..=1);
    bench.faults.sync_fails.store(true, Ordering::SeqCst);
    bench.faults.sync_millis.store(50, Ordering::SeqCst);
    let tickets: Vec<_> = (2..=4).map(|number| log.enqueue(row(number, "x")).unwrap()).collect();
    for ticket in tickets {
        let error = block_on(ticket.durable()).unwrap_err();
        assert!(matches!(&error, CommitError::Stopped(cause) if cause.contains("injected")), "{error}");
    }
    // The disk says it is well again; what it lost meanwhile nobody knows.
    bench.faults.sync_fails.store(false, Ordering::SeqCst);
    assert!(matches!(log.enqueue(row(5, "x")), Err(CommitError::Stopped(_))));
    assert!(log.write_fault().unwrap().contains("injected"));
    assert_eq!(log.durable_position(), Position(1));
    assert!(block_on(log.barrier().durable()).is_err());
    assert!(log.close().is_err());
}

#[test]
fn a_batch_the_engine_refuses_is_neither_lost_nor_given_out_twice() {
    let bench = Bench::new();
    let engine = Arc::new(FaultyEngine::default());
    let log = bench.try_open(engine.clone(), Durability::Fsync).unwrap();
    commit_rows(&log, 1..=2);
    engine.full.store(true, Ordering::SeqCst);
    let mut batch = row(3, "value 3");
    batch.wake(Topic::Room(RoomNid(3)));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    log.observe(Box::new(move |position, topics| hears.lock().push((position, topics.to_vec()))));
    let ticket = log.enqueue(batch).unwrap();
    assert_eq!(ticket.position(), Position(3));
    assert!(matches!(log.enqueue(row(4, "x")), Err(CommitError::Full)));
    assert!(log.write_fault().unwrap().contains(NO_SPACE));
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(log.durable_position(), Position(2), "not acknowledged before it is applied");
    engine.full.store(false, Ordering::SeqCst);
    assert_eq!(block_on(ticket.durable()).unwrap(), Position(3));
    assert_eq!(log.write_fault(), None);
    commit_rows(&log, 4..=4);
    drop(log);
    check_rows(engine.as_ref(), 1..=4);
    assert_eq!(heard.lock()[0], (Position(3), vec![Topic::Room(RoomNid(3))]));
    check_rows(bench.open().1.as_ref(), 1..=4);
}

#[test]
fn a_batch_the_engine_refuses_until_the_end_is_applied_at_the_next_start() {
    let bench = Bench::new();
    let engine = Arc::new(FaultyEngine::default());
    let log = bench.try_open(engine.clone(), Durability::Fsync).unwrap();
    commit_rows(&log, 1..=1);
    engine.full.store(true, Ordering::SeqCst);
    let ticket = log.enqueue(row(2, "value 2")).unwrap();
    log.close().unwrap();
    assert!(matches!(block_on(ticket.durable()), Err(CommitError::Stopped(_))));
    drop(log);
    engine.full.store(false, Ordering::SeqCst);
    let log = bench.try_open(engine.clone(), Durability::Fsync).unwrap();
    assert_eq!(log.durable_position(), Position(2));
    check_rows(engine.as_ref(), 1..=2);
}

#[test]
fn waiting_batches_share_a_flush() {
    let bench = Bench::new();
    let (log, _) = bench.open();
    bench.faults.sync_millis.store(30, Ordering::SeqCst);
    let before = bench.faults.syncs.load(Ordering::SeqCst);
    let tickets: Vec<_> = (1..=50).map(|number| log.enqueue(row(number, "x")).unwrap()).collect();
    for (index, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(block_on(ticket.durable()).unwrap(), Position(index as u64 + 1));
    }
    let syncs = bench.faults.syncs.load(Ordering::SeqCst) - before;
    assert!((1..=5).contains(&syncs), "{syncs} flushes for 50 batches");
}

#[test]
fn where_many_wait_a_flush_is_put_off_to_be_for_more() {
    let bench = Bench::new();
    let (log, _) = bench.open();
    let flushes_of = |writers: u64, batches: u64| {
        let before = bench.faults.syncs.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let log = &log;
                scope.spawn(move || (0..batches).for_each(|number| drop(commit(log, row(writer << 32 | number, "x")))));
            }
        });
        bench.faults.syncs.load(Ordering::SeqCst) - before
    };
    assert_eq!(flushes_of(1, 50), 50, "who writes alone is not made to wait");
    let flushes = flushes_of(32, 50);
    assert!(flushes <= 32 * 50 / flush::CROWD, "{flushes} flushes");
}

#[test]
fn nothing_is_acknowledged_before_its_flush() {
    let bench = Bench::new();
    let (log, engine) = bench.open();
    bench.faults.sync_millis.store(300, Ordering::SeqCst);
    let ticket = log.enqueue(row(1, "value 1")).unwrap();
    check_rows(engine.as_ref(), 1..=1);
    assert_eq!(log.durable_position(), Position::ZERO);
    let started = Instant::now();
    block_on(ticket.durable()).unwrap();
    assert!(started.elapsed() > Duration::from_millis(200));
    assert_eq!(log.durable_position(), Position(1));
}

#[test]
fn a_dropped_wait_loses_nothing() {
    let bench = Bench::new();
    let (log, engine) = bench.open();
    let waiting = log.enqueue(row(1, "value 1")).unwrap().durable();
    drop(waiting);
    block_on(log.barrier().durable()).unwrap();
    check_rows(engine.as_ref(), 1..=1);
    assert_eq!(log.durable_position(), Position(1));
}

#[test]
fn without_fsync_a_batch_is_durable_at_once_and_survives_the_process() {
    let bench = Bench::new();
    let log = bench.try_open(Arc::new(MemoryEngine::new()), Durability::Os).unwrap();
    let before = bench.faults.syncs.load(Ordering::SeqCst);
    let ticket = log.enqueue(row(1, "value 1")).unwrap();
    assert_eq!(log.durable_position(), Position(1));
    assert_eq!(block_on(ticket.durable()).unwrap(), Position(1));
    assert_eq!(bench.faults.syncs.load(Ordering::SeqCst), before);
    drop(log);
    check_rows(bench.open().1.as_ref(), 1..=1);
}

#[test]
fn a_volatile_log_gives_positions_and_wakes_at_once() {
    let engine = Arc::new(FaultyEngine::default());
    let log = Log::volatile(engine.clone());
    let heard = Arc::new(AtomicU64::new(0));
    let hears = heard.clone();
    log.observe(Box::new(move |position, _| hears.store(position.0, Ordering::SeqCst)));
    drop(log.enqueue(row(1, "value 1")).unwrap());
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    engine.full.store(true, Ordering::SeqCst);
    assert!(matches!(log.enqueue(row(2, "x")), Err(CommitError::Full)));
    engine.full.store(false, Ordering::SeqCst);
    assert_eq!(commit(&log, row(2, "value 2")).unwrap(), Position(2));
    log.close().unwrap();
    assert!(matches!(log.enqueue(row(3, "x")), Err(CommitError::Stopped(_))));
}

#[test]
fn closing_twice_is_no_error() {
    let bench = Bench::new();
    let (log, _) = bench.open();
    commit_rows(&log, 1..=1);
    log.close().unwrap();
    log.close().unwrap();
    assert_eq!(log.write_fault().as_deref(), Some(CLOSED));
}

#[test]
fn a_panic_in_the_log_fails_who_waits_instead_of_leaving_them_waiting() {
    let bench = Bench::new();
    let (log, _) = bench.open();
    log.observe(Box::new(|_, _| panic!("on purpose")));
    assert!(matches!(commit(&log, row(1, "x")), Err(CommitError::Stopped(_))));
    assert!(matches!(commit(&log, row(2, "x")), Err(CommitError::Stopped(_))));
    assert!(log.close().is_err());
}
