//! The conformance suite on RocksDB, and what only RocksDB can get wrong: damaged files, its lock, a full disk.

use std::{path::PathBuf, sync::Arc};

use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

use super::*;

fn open(path: &Path) -> Result<RocksEngine, EngineError> {
    RocksEngine::open(
        path,
        &RocksOptions { cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, background_jobs: 2, open_files_max: 32 },
    )
}

chappe_store::conformance_tests!(|path: &Path| Arc::new(open(path).expect("RocksDB opens")) as Arc<dyn Engine>);

fn rows(range: std::ops::Range<u32>) -> Vec<Write> {
    range
        .map(|number| Write::Put { key: number.to_be_bytes().to_vec(), value: number.to_le_bytes().repeat(50) })
        .collect()
}

fn table_files(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).expect("directory").map(|entry| entry.expect("entry").path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
}

#[test]
fn a_damaged_block_is_an_error_and_not_an_absence() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = open(dir.path()).expect("RocksDB opens");
    engine.apply(&rows(0..5000)).expect("apply");
    engine.flush().expect("flush");
    drop(engine);
    for path in table_files(dir.path()) {
        let mut bytes = std::fs::read(&path).expect("read");
        // The data blocks come first; the index and footer, behind them, stay whole.
        for at in (20..bytes.len() / 2).step_by(500) {
            bytes[at] ^= 0xFF;
        }
        std::fs::write(&path, bytes).expect("write");
    }
    let engine = open(dir.path()).expect("RocksDB opens");
    let error = engine.get(&7_u32.to_be_bytes()).expect_err("a damaged block");
    assert!(error.to_string().contains("Corruption"), "{error}");
    assert!(!error.is_full());
    for direction in [Direction::Forward, Direction::Reverse] {
        let mut scan = engine.scan(&[], &[255], direction);
        assert!(scan.by_ref().any(|row| row.is_err()), "a scan that meets damage says so");
        assert!(scan.next().is_none(), "and ends there");
    }
}

#[test]
fn a_missing_file_refuses_the_open() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = open(dir.path()).expect("RocksDB opens");
    engine.apply(&rows(0..100)).expect("apply");
    engine.flush().expect("flush");
    drop(engine);
    for path in table_files(dir.path()) {
        std::fs::remove_file(path).expect("remove");
    }
    let error = open(dir.path()).err().expect("a file is missing");
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
}

#[test]
fn a_database_in_use_is_refused_with_a_clear_message() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = open(dir.path()).expect("RocksDB opens");
    let error = open(dir.path()).err().expect("in use");
    assert!(error.to_string().contains("is in use by another process"), "{error}");
    drop(engine);
    open(dir.path()).expect("free again");
}

#[test]
fn a_full_disk_is_recognised() {
    let text =
        "IO error: No space left on device: While appending to file: /data/db/000012.sst: No space left on device";
    let error = engine_error(text);
    assert!(error.is_full());
    assert!(error.to_string().contains("000012.sst"));
}

/// Needs a small file system of its own: `mount -t tmpfs -o size=48m tmpfs DIR`, `CHAPPE_SMALL_DISK=DIR`, and `--ignored`.
#[test]
#[ignore = "needs a small file system in CHAPPE_SMALL_DISK"]
fn writes_resume_by_themselves_once_a_full_disk_has_space_again() {
    let disk = PathBuf::from(std::env::var_os("CHAPPE_SMALL_DISK").expect("CHAPPE_SMALL_DISK"));
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![1; 30 << 20]).expect("ballast");
    let engine = open(&disk.join("db")).expect("RocksDB opens");
    // Values that do not compress.
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32).to_be_bytes()
    };
    let mut written = Vec::new();
    let error = loop {
        let value: Vec<u8> = (0..8192).flat_map(|_| noise()).collect();
        let key = u32::try_from(written.len()).expect("fits").to_be_bytes().to_vec();
        assert!(written.len() < 10_000, "the disk does not get full");
        match engine.apply(&[Write::Put { key, value: value.clone() }]) {
            Ok(()) => written.push(value),
            Err(error) => break error,
        }
    };
    assert!(error.is_full(), "{error}");
    std::fs::remove_file(&ballast).expect("remove");
    let started = std::time::Instant::now();
    while let Err(error) = engine.apply(&[Write::Put { key: b"after".to_vec(), value: b"x".to_vec() }]) {
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "still refuses: {error}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    engine.flush().expect("flush");
    for (number, value) in written.iter().enumerate() {
        let key = u32::try_from(number).expect("fits").to_be_bytes();
        assert_eq!(engine.get(&key).expect("get").as_deref(), Some(value.as_slice()), "row {number}");
    }
}

#[test]
fn filter_of_very_many_small_rows_is_not_read_again_for_each_key() {
    const ROWS: u32 = 800_000;
    const KEYS: u32 = 1_000;
    let dir = tempfile::tempdir().expect("temporary directory");
    let options =
        RocksOptions { cache_bytes: 4 << 20, write_buffer_bytes: 256 << 20, background_jobs: 2, open_files_max: 32 };
    let engine = RocksEngine::open(dir.path(), &options).expect("RocksDB opens");
    let rows: Vec<_> =
        (0..ROWS).map(|number| Write::Put { key: (2 * number).to_be_bytes().to_vec(), value: Vec::new() }).collect();
    engine.apply(&rows).expect("apply");
    engine.flush().expect("flush");
    // Those of new files are never let go.
    engine.db.compact_range(None::<&[u8]>, None::<&[u8]>);
    drop(engine);
    let engine = RocksEngine::open(dir.path(), &options).expect("RocksDB opens");
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut figures = PerfContext::default();
    figures.reset();
    for number in 0..KEYS {
        assert!(engine.get(&(2 * number + 1).to_be_bytes()).expect("get").is_none());
    }
    let blocks = figures.metric(PerfMetric::BlockReadCount);
    set_perf_stats(PerfStatsLevel::Disable);
    assert!(blocks < u64::from(KEYS / 10), "{blocks} blocks were read for {KEYS} keys");
}

#[test]
fn files_without_rows_of_a_room_are_passed_over_by_who_scans_it() {
    const ROOMS_PER_FILE: u64 = 500;
    let key = |room: u64, rest: u64| [&[7], &room.to_be_bytes()[..], &rest.to_be_bytes()[..]].concat();
    let dir = tempfile::tempdir().expect("temporary directory");
    let engine = open(dir.path()).expect("RocksDB opens");
    for file in 0..4 {
        // The rooms of all files lie between each other.
        let keys = (0..ROOMS_PER_FILE).flat_map(|room| (0..10).map(move |rest| key(room * 5 + file, rest)));
        let rows: Vec<_> = keys.map(|key| Write::Put { key, value: vec![1; 130] }).collect();
        engine.apply(&rows).expect("apply");
        engine.flush().expect("flush");
    }
    let files = table_files(dir.path()).len();
    assert!(files >= 4, "each room is in one of {files} files");
    drop(engine);
    let engine = open(dir.path()).expect("RocksDB opens");
    let count = |room: u64| engine.scan(&key(room, 0), &key(room, u64::MAX), Direction::Forward).count();
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut figures = PerfContext::default();
    figures.reset();
    assert!((0..ROOMS_PER_FILE).all(|room| count(room * 5 + 4) == 0), "nobody wrote these");
    let blocks = figures.metric(PerfMetric::BlockReadCount);
    assert!((0..ROOMS_PER_FILE).all(|room| count(room * 5) == 10));
    let all_blocks = figures.metric(PerfMetric::BlockReadCount);
    set_perf_stats(PerfStatsLevel::Disable);
    // Of each file its filter, in pieces, and what one in a hundred lookups finds wrongly.
    assert!(all_blocks > 4 * blocks, "{blocks} and {all_blocks} blocks were read");
}
