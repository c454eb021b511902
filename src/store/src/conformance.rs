//! What every engine must do, alone and behind a log: run for each by [`conformance_tests!`](crate::conformance_tests).
//!
//! Test code, kept in the library so that engines in other crates can be held to it. Nothing else uses it.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use crate::{
    Batch, CommitError, Direction, Domain, Durability, Engine, OpenError, Position, Stamped, Store, StoreOptions,
    Table, Topic, Write, ids::RoomNid, log::Log, record::Value, tables::domains::APPLIED,
};

const NAMES: Table<String, String> = Table::new(250, "conformance_names");
const PAIRS: Table<(String, u64), u64> = Table::new(251, "conformance_pairs");
const BY_POSITION: Table<(u8, Position), Stamped<String>> = Table::new(252, "conformance_by_position");

/// An engine under test: a directory of its own, and how to open the engine in a directory.
pub struct Fixture<'a> {
    pub dir: &'a Path,
    pub open: &'a dyn Fn(&Path) -> Arc<dyn Engine>,
}

/// Writes a test for each case. The argument opens an engine: `fn(&Path) -> Arc<dyn Engine>`.
#[macro_export]
macro_rules! conformance_tests {
    ($open:expr) => {
        $crate::conformance_tests!(@cases $open;
            what_is_put_is_read_until_it_is_deleted
            writes_of_one_apply_take_effect_in_order
            a_deleted_range_is_gone_from_reads_and_scans
            an_empty_range_deletes_and_gives_nothing
            many_keys_are_read_at_once
            scans_give_rows_in_key_order_both_ways
            long_scans_give_every_row_once
            scans_give_what_a_map_gives_wherever_they_begin_and_end
            keys_and_values_may_hold_any_byte
            a_prefix_scan_stays_within_its_prefix
            a_zero_byte_in_a_string_key_is_refused
            the_first_row_of_a_table_is_seen_at_once_and_after_a_restart
            batches_get_positions_in_order_without_holes
            symbolic_positions_are_filled_in
            a_stale_guard_drops_the_whole_batch
            guards_let_no_update_get_lost
            observers_hear_of_batches_in_order
            everything_is_there_after_a_clean_restart
            an_older_engine_catches_up_from_the_log
            an_engine_that_lost_its_memory_holds_whole_batches
            a_second_open_is_refused
        );
    };
    (@cases $open:expr; $($case:ident)+) => {$(
        #[test]
        fn $case() {
            let dir = tempfile::tempdir().expect("temporary directory");
            $crate::conformance::$case(&$crate::conformance::Fixture { dir: dir.path(), open: &$open });
        }
    )+};
}

impl Fixture<'_> {
    fn engine(&self) -> Arc<dyn Engine> {
        (self.open)(&self.dir.join("db"))
    }

    fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn store(&self) -> Store {
        Store::open(self.engine(), &self.log_dir(), StoreOptions::default()).expect("store opens")
    }
}

/// Runs a future to its end on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
}

fn put(key: &[u8], value: &[u8]) -> Write {
    Write::Put { key: key.to_vec(), value: value.to_vec() }
}

fn scan(engine: &dyn Engine, start: &[u8], end: &[u8], direction: Direction) -> Vec<(Vec<u8>, Vec<u8>)> {
    engine
        .scan(start, end, direction)
        .map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).expect("row"))
        .collect()
}

fn scan_keys(engine: &dyn Engine, start: &[u8], end: &[u8], direction: Direction) -> Vec<String> {
    scan(engine, start, end, direction).into_iter().map(|(key, _)| String::from_utf8_lossy(&key).into_owned()).collect()
}

fn set(name: &str, value: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(&NAMES, &name.to_owned(), &value.to_owned());
    batch
}

fn named(id: &str) -> Domain {
    Domain::Named { kind: "conformance", id: id.to_owned() }
}

pub fn what_is_put_is_read_until_it_is_deleted(fixture: &Fixture<'_>) {
    let engine = fixture.engine();
    assert_eq!(engine.get(b"key").expect("get"), None);
    engine.apply(&[put(b"key", b"one"), put(b"empty", b"")]).expect("apply");
    assert_eq!(engine.get(b"key").expect("get"), Some(Bytes::from_static(b"one")));
    assert_eq!(engine.get(b"empty").expect("get"), Some(Bytes::new()));
    engine.apply(&[put(b"key", b"two")]).expect("apply");
    assert_eq!(engine.get(b"key").expect("get"), Some(Bytes::from_static(b"two")));
    engine.flush().expect("flush");
    engine
        .apply(&[Write::Delete { key: b"key".to_vec() }, Write::Delete { key: b"never there".to_vec() }])
        .expect("apply");
    assert_eq!(engine.get(b"key").expect("get"), None);
    assert_eq!(scan_keys(engine.as_ref(), b"", b"z", Direction::Forward), ["empty"]);
}

pub fn writes_of_one_apply_take_effect_in_order(fixture: &Fixture<'_>) {
    let engine = fixture.engine();
    let range = Write::DeleteRange { start: b"a".to_vec(), end: b"c".to_vec() };
    engine.apply(&[put(b"a", b"1"), put(b"b", b"1"), range, put(b"b", b"2"), put(b"b", b"3")]).expect("apply");
    assert_eq!(scan(engine.as_ref(), b"a", b"z", Direction::Forward), [(b"b".to_vec(), b"3".to_vec())]);
}

pub fn a_deleted_range_is_gone_from_reads_and_scans(fixture: &Fixture<'_>) {
    let engine = fixture.engine();
    engine.apply(&["a", "b", "ba", "bb", "c", "d"].map(|key| put(key.as_bytes(), b"x"))).expect("apply");
    engine.flush().expect("flush");
    engine.apply(&[Write::DeleteRange { start: b"b".to_vec(), end: b"c".to_vec() }]).expect("apply");
    for pass in ["before", "after"] {
        assert_eq!(engine.get(b"ba").expect("get"), None, "{pass} the flush");
        assert!(engine.get(b"c").expect("get").is_some(), "{pass} the flush: the end is not part of the range");
        assert_eq!(scan_keys(engine.as_ref(), b"a", b"z", Direction::Forward), ["a", "c", "d"], "{pass} the flush");
        assert_eq!(scan_keys(engine.as_ref(), b"a", b"z", Direction::Reverse), ["d", "c", "a"], "{pass} the flush");
        engine.flush().expect("flush");
    }
    engine.apply(&[put(b"bb", b"again")]).expect("apply");
    assert_eq!(scan_keys(engine.as_ref(), b"a", b"z", Direction::Forward), ["a", "bb", "c", "d"]);
}

pub fn an_empty_range_deletes_and_gives_nothing(fixture: &Fixture<'_>) {
    let engine = fixture.engine();
    engine.apply(&[put(b"a", b"1"), put(b"b", b"1")]).expect("apply");
    let ranges = [(b"b", b"a"), (b"a", b"a")]
        .map(|(start, end)| Write::DeleteRange { start: start.to_vec(), end: end.to_vec() });
    engine.apply(&ranges).expect("an empty range is no error: the batch may be in the log already");
    assert_eq!(scan_keys(engine.as_ref(), b"a", b"z", Direction::Forward), ["a", "b"]);
    for direction in [Direction::Forward, Direction::Reverse] {
        assert!(scan(engine.as_ref(), b"b", b"a", direction).is_empty());
        assert!(scan(engine.as_ref(), b"a", b"a", direction).is_empty());
        assert!(scan(engine.as_ref(), b"c", b"d", direction).is_empty());
    }
}

pub fn scans_give_rows_in_key_order_both_ways(fixture: &Fixture<'_>) {
    let engine = fixture.engine();
    // Half of them in a file, half in memory.
    engine.apply(&["b", "ab", "d"].map(|key| put(key.as_bytes(), b"x"))).expect("apply");
    engine.flush().expect("flush");
    engine.apply(&["c", "a", "e"].map(|key| put(key.as_bytes(), b"x"))).expect("apply");
    assert_eq!(scan_keys(engine.as_ref(), b"a", b"e", Direction::Forward), ["a", "ab", "b", "c", "d"]);
    assert_eq!(scan_keys(engine.as_ref(), b"ab", b"e", Direction::Reverse), ["d", "c", "b", "ab"]);
    assert_eq!(scan_keys(engine.as_ref(), b"aa", b"bb", Direction::Forward), ["ab", "b"]);
}

pub fn long_scans_give_every_row_once(fixture: &Fixture<'_>) {
    let engine = fixture.engine();
    let key = |number: u32| number.to_be_bytes().to_vec();
    let writes: Vec<_> = (0..1000).map(|number| put(&key(number), &key(number))).collect();
    engine.apply(&writes).expect("apply");
    let rows = scan(engine.as_ref(), &key(100), &key(900), Direction::Forward);
    assert_eq!(rows, (100..900).map(|number| (key(number), key(number))).collect::<Vec<_>>());
    let mut reverse = scan(engine.as_ref(), &key(100), &key(900), Direction::Reverse);
    reverse.reverse();
    assert_eq!(rows, reverse);
}

/// Keys such as tables have: an id, the number of a room, and more or less after it. Files are written in between, some of them without rows
/// of most rooms.
pub fn scans_give_what_a_map_gives_wherever_they_begin_and_end(fixture: &Fixture<'_>) {
    let engine = fixture.engine();
    let key = |table: u8, room: u64, rest: &[u8]| [&[table], &room.to_be_bytes()[..], rest].concat();
    let rooms = [0, 1, 2, 255, 256, 65_535, u64::MAX - 1, u64::MAX];
    let rests: [&[u8]; 6] = [b"", b"\0", b"a", b"ab", b"b\xff", b"\xff\xff"];
    let mut map = BTreeMap::new();
    for (number, room) in rooms.into_iter().enumerate() {
        let keys = [1, 2].into_iter().flat_map(|table| rests.map(|rest| key(table, room, rest)));
        let rows: Vec<_> = keys.skip(number).step_by(2).collect();
        engine.apply(&rows.iter().map(|key| put(key, b"x")).collect::<Vec<_>>()).expect("apply");
        map.extend(rows.into_iter().map(|key| (key, b"x".to_vec())));
        if number % 3 == 2 {
            let (start, end) = (key(1, room, b"a"), key(2, 1, b"a"));
            engine.apply(&[Write::DeleteRange { start: start.clone(), end: end.clone() }]).expect("apply");
            map.retain(|key, _| !(start <= *key && *key < end));
        }
        if number % 2 == 1 {
            engine.flush().expect("flush");
        }
    }
    let mut bounds = vec![Vec::new(), vec![1], vec![2], vec![3]];
    for table in [1, 2] {
        bounds.extend(rooms.iter().flat_map(|room| rests.map(|rest| key(table, *room, rest))));
    }
    for start in &bounds {
        for end in bounds.iter().filter(|end| *end > start) {
            let mut rows: Vec<_> =
                map.range(start.clone()..end.clone()).map(|(key, value)| (key.clone(), value.clone())).collect();
            assert_eq!(scan(engine.as_ref(), start, end, Direction::Forward), rows, "{start:?} to {end:?}");
            rows.reverse();
            assert_eq!(scan(engine.as_ref(), start, end, Direction::Reverse), rows, "{end:?} back to {start:?}");
        }
    }
}

pub fn keys_and_values_may_hold_any_byte(fixture: &Fixture<'_>) {
    let engine = fixture.engine();
    let bytes: Vec<u8> = (0..=255).collect();
    let large = vec![0xA5; 300_000];
    engine.apply(&[put(&bytes, &bytes), put(&[0], &large), put(&[255, 255], b"last")]).expect("apply");
    engine.flush().expect("flush");
    assert_eq!(engine.get(&bytes).expect("get").as_deref(), Some(bytes.as_slice()));
    assert_eq!(engine.get(&[0]).expect("get").as_deref(), Some(large.as_slice()));
    assert_eq!(scan(engine.as_ref(), &[], &[255, 255, 255], Direction::Reverse).len(), 3);
}

pub fn a_prefix_scan_stays_within_its_prefix(fixture: &Fixture<'_>) {
    let store = fixture.store();
    let mut batch = Batch::new();
    for (name, number) in [("a", 2), ("a", 1), ("a", u64::MAX), ("ab", 1), ("b", 0)] {
        batch.put(&PAIRS, &(name.to_owned(), number), &number);
    }
    batch.put(&NAMES, &"a".to_owned(), &"another table".to_owned());
    block_on(store.commit(batch)).expect("commit");
    let numbers = |prefix: &str, direction| -> Vec<u64> {
        store.scan(&PAIRS, &(prefix.to_owned(),), direction).map(|row| row.expect("row").0.1).collect()
    };
    assert_eq!(numbers("a", Direction::Forward), [1, 2, u64::MAX]);
    assert_eq!(numbers("a", Direction::Reverse), [u64::MAX, 2, 1]);
    assert_eq!(numbers("ab", Direction::Forward), [1]);
    assert_eq!(store.scan(&PAIRS, &(), Direction::Forward).count(), 5);
    let from_one = (("a".to_owned(), 2_u64), ("b".to_owned(),));
    let range: Vec<_> =
        store.scan_range(&PAIRS, &from_one.0, &from_one.1, Direction::Forward).map(|row| row.expect("row").0).collect();
    assert_eq!(range, [("a".to_owned(), 2), ("a".to_owned(), u64::MAX), ("ab".to_owned(), 1)]);

    let mut batch = Batch::new();
    batch.delete_prefix(&PAIRS, &("a".to_owned(),));
    block_on(store.commit(batch)).expect("commit");
    assert!(numbers("a", Direction::Forward).is_empty());
    assert_eq!(store.scan(&PAIRS, &(), Direction::Forward).count(), 2);
    assert!(store.contains(&NAMES, &"a".to_owned()).expect("read"));
}

pub fn the_first_row_of_a_table_is_seen_at_once_and_after_a_restart(fixture: &Fixture<'_>) {
    let names = |store: &Store| -> Vec<_> {
        store.scan(&NAMES, &(), Direction::Reverse).map(|row| row.expect("row").0).collect()
    };
    let pairs = |store: &Store| store.scan_range(&PAIRS, &(), &("b".to_owned(),), Direction::Forward).count();
    let store = fixture.store();
    assert_eq!((names(&store).len(), pairs(&store)), (0, 0));
    let mut batch = Batch::new();
    batch.put(&NAMES, &"a".to_owned(), &"first".to_owned());
    drop(store.enqueue(batch).expect("enqueue"));
    let is_there = |store: &Store| store.contains(&NAMES, &"a".to_owned()).expect("read");
    assert!(is_there(&store) && names(&store) == ["a"] && pairs(&store) == 0);
    store.close().expect("close");
    drop(store);
    let store = fixture.store();
    assert!(is_there(&store) && names(&store) == ["a"] && pairs(&store) == 0);
    assert_eq!(store.get(&PAIRS, &("a".to_owned(), 1)).expect("read"), None);
}

pub fn a_zero_byte_in_a_string_key_is_refused(fixture: &Fixture<'_>) {
    let store = fixture.store();
    let mut batch = set("good", "x");
    batch.put(&NAMES, &"b\0d".to_owned(), &"x".to_owned());
    assert!(matches!(block_on(store.commit(batch)), Err(CommitError::Invalid(_))));
    let mut batch = set("good", "x");
    batch.guard(named("b\0d"), Position::ZERO);
    assert!(matches!(block_on(store.commit(batch)), Err(CommitError::Invalid(_))));
    assert_eq!(store.get(&NAMES, &"b\0d".to_owned()).expect("read"), None);
    assert_eq!(store.get(&NAMES, &"good".to_owned()).expect("read"), None, "nothing of a refused batch is written");
    assert_eq!(
        block_on(store.commit(set("good", "y"))).expect("commit"),
        Position(1),
        "a refused batch takes no position"
    );
}

pub fn batches_get_positions_in_order_without_holes(fixture: &Fixture<'_>) {
    let store = fixture.store();
    assert_eq!(store.durable_position(), Position::ZERO);
    assert_eq!(block_on(store.commit(set("a", "1"))).expect("commit"), Position(1));
    let mut batch = set("b", "1");
    let symbols = [batch.next_position(), batch.next_position(), batch.next_position()];
    assert_eq!(symbols.map(|symbol| symbol.resolve(Position(2))), [Position(2), Position(3), Position(4)]);
    assert_eq!(block_on(store.commit(batch)).expect("commit"), Position(2));
    assert_eq!(store.durable_position(), Position(4));
    assert_eq!(block_on(store.commit(set("c", "1"))).expect("commit"), Position(5));
    let ticket = store.enqueue(set("d", "1")).expect("enqueue");
    assert_eq!(ticket.position(), Position(6));
    block_on(store.barrier()).expect("barrier");
    assert_eq!(store.durable_position(), Position(6));
}

pub fn symbolic_positions_are_filled_in(fixture: &Fixture<'_>) {
    let store = fixture.store();
    block_on(store.commit(set("a", "1"))).expect("commit");
    let mut batch = Batch::new();
    for name in ["first", "second"] {
        let position = batch.next_position();
        batch.put(&BY_POSITION, &(7, position), &Stamped { position, value: name.to_owned() });
    }
    // A position that is known already stays as it is.
    batch.put(&BY_POSITION, &(7, Position(1)), &Stamped { position: Position(1), value: "known".to_owned() });
    block_on(store.commit(batch)).expect("commit");
    let rows: Vec<_> = store.scan(&BY_POSITION, &(7_u8,), Direction::Forward).map(|row| row.expect("row")).collect();
    let expected = [(1, "known"), (2, "first"), (3, "second")]
        .map(|(at, value)| ((7, Position(at)), Stamped { position: Position(at), value: value.to_owned() }));
    assert_eq!(rows, expected);
}

pub fn a_stale_guard_drops_the_whole_batch(fixture: &Fixture<'_>) {
    let store = fixture.store();
    let (domain, other) = (named("x"), Domain::Room(RoomNid(9)));
    let seen = store.domain_version(&domain).expect("read");
    assert_eq!(seen, Position::ZERO);
    let mut first = set("winner", "first");
    first.guard(domain.clone(), seen);
    let position = block_on(store.commit(first)).expect("commit");
    assert_eq!(store.domain_version(&domain).expect("read"), position);

    let mut second = set("winner", "second");
    second.guard(other.clone(), Position::ZERO);
    second.guard(domain.clone(), seen);
    assert!(matches!(block_on(store.commit(second)), Err(CommitError::Conflict)));
    assert_eq!(store.get(&NAMES, &"winner".to_owned()).expect("read").as_deref(), Some("first"));
    assert_eq!(store.domain_version(&other).expect("read"), Position::ZERO);

    let mut third = set("winner", "third");
    third.guard(domain.clone(), position);
    assert_eq!(block_on(store.commit(third)).expect("commit"), position.next(), "the dropped batch took no position");
    block_on(store.commit(set("winner", "unguarded"))).expect("commit");
    assert_eq!(
        store.domain_version(&domain).expect("read"),
        position.next(),
        "only guarded batches count for a domain"
    );
}

pub fn guards_let_no_update_get_lost(fixture: &Fixture<'_>) {
    let store = fixture.store();
    let key = ("counter".to_owned(), 0_u64);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    loop {
                        let mut batch = Batch::new();
                        batch.guard(named("counter"), store.domain_version(&named("counter")).expect("read"));
                        let count = store.get(&PAIRS, &key).expect("read").unwrap_or_default();
                        batch.put(&PAIRS, &key, &(count + 1));
                        match store.enqueue(batch) {
                            Ok(ticket) => {
                                block_on(ticket.durable()).expect("durable");
                                break;
                            }
                            Err(CommitError::Conflict) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    assert_eq!(store.get(&PAIRS, &key).expect("read"), Some(100));
    assert_eq!(store.durable_position(), Position(100));
}

pub fn observers_hear_of_batches_in_order(fixture: &Fixture<'_>) {
    let store = fixture.store();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    store.observe(move |durable, topics| hears.lock().expect("lock").push((durable, topics.to_vec())));
    let tickets: Vec<_> = (1..=50)
        .map(|number| {
            let mut batch = set("a", "x");
            batch.wake(Topic::Room(RoomNid(number)));
            batch.wake(Topic::Room(RoomNid(number)));
            store.enqueue(batch).expect("enqueue")
        })
        .collect();
    block_on(async {
        for ticket in tickets {
            let position = ticket.durable().await.expect("durable");
            let heard = heard.lock().expect("lock").last().map(|(durable, _)| *durable);
            assert!(heard >= Some(position), "topics are woken before a commit returns");
        }
    });
    store.close().expect("close");
    let heard = heard.lock().expect("lock");
    assert!(heard.windows(2).all(|pair| pair[0].0 < pair[1].0), "durable positions rise: {heard:?}");
    let mut next = 1;
    for (durable, topics) in heard.iter() {
        // Each batch here takes one position and names one room, numbered alike.
        let mut rooms: Vec<_> =
            topics.iter().map(|topic| if let Topic::Room(room) = topic { room.0 } else { 0 }).collect();
        rooms.sort_unstable();
        assert_eq!(rooms, (next..=durable.0).collect::<Vec<_>>());
        next = durable.0 + 1;
    }
    assert_eq!(next, 51);
}

pub fn everything_is_there_after_a_clean_restart(fixture: &Fixture<'_>) {
    let store = fixture.store();
    for number in 0..20_u64 {
        let mut batch = Batch::new();
        batch.put(&PAIRS, &("n".to_owned(), number), &number);
        batch.guard(named("n"), store.domain_version(&named("n")).expect("read"));
        block_on(store.commit(batch)).expect("commit");
    }
    let mut batch = Batch::new();
    batch.delete_range(&PAIRS, &("n".to_owned(), 5_u64), &("n".to_owned(), 15_u64));
    block_on(store.commit(batch)).expect("commit");
    store.close().expect("close");
    assert!(matches!(store.enqueue(set("late", "x")), Err(CommitError::Stopped(_))));
    drop(store);

    let store = fixture.store();
    assert_eq!(store.durable_position(), Position(21));
    assert_eq!(store.domain_version(&named("n")).expect("read"), Position(20));
    let numbers: Vec<_> = store.scan(&PAIRS, &(), Direction::Forward).map(|row| row.expect("row").1).collect();
    assert_eq!(numbers, (0..5).chain(15..20).collect::<Vec<_>>());
    assert_eq!(store.get(&NAMES, &"late".to_owned()).expect("read"), None);
    assert_eq!(block_on(store.commit(set("a", "x"))).expect("commit"), Position(22));
}

pub fn many_keys_are_read_at_once(fixture: &Fixture<'_>) {
    let engine = fixture.engine();
    let key = |number: u32| number.to_be_bytes().to_vec();
    let writes = (0..200).filter(|number| number % 3 != 0);
    let writes: Vec<_> =
        writes.map(|number| Write::Put { key: key(number), value: format!("value {number}").into_bytes() }).collect();
    engine.apply(&writes).unwrap();
    engine.flush().unwrap();
    engine.apply(&[Write::Delete { key: key(7) }, Write::Put { key: key(8), value: b"newer".to_vec() }]).unwrap();
    let keys: Vec<_> = (0..200).chain([199, 1_000]).map(key).collect();
    let values = engine.get_many(&keys).unwrap();
    let singly: Vec<_> = keys.iter().map(|key| engine.get(key).unwrap()).collect();
    assert_eq!(values, singly);
    assert_eq!(values.iter().flatten().count(), 133);
    assert_eq!((&values[6], &values[7], &values[8]), (&None, &None, &Some(Bytes::from_static(b"newer"))));
    assert_eq!(engine.get_many(&[]).unwrap(), Vec::<Option<Bytes>>::new());
}

pub fn an_older_engine_catches_up_from_the_log(fixture: &Fixture<'_>) {
    let store = fixture.store();
    block_on(store.commit(set("kept", "old"))).expect("commit");
    block_on(store.commit(set("gone", "x"))).expect("commit");
    // What a power cut would leave of the engine: what it has in its files at this moment.
    let crashed = fixture.dir.join("crashed");
    copy_directory(&fixture.dir.join("db"), &crashed);
    let mut batch = set("kept", "new");
    batch.delete(&NAMES, &"gone".to_owned());
    let position = batch.next_position();
    batch.put(&BY_POSITION, &(1, position), &Stamped { position, value: "stamped".to_owned() });
    batch.guard(named("x"), Position::ZERO);
    block_on(store.commit(batch)).expect("commit");
    drop(store);

    let store =
        Store::open((fixture.open)(&crashed), &fixture.log_dir(), StoreOptions::default()).expect("store opens");
    assert_eq!(store.durable_position(), Position(3));
    assert_eq!(store.get(&NAMES, &"kept".to_owned()).expect("read").as_deref(), Some("new"));
    assert_eq!(store.get(&NAMES, &"gone".to_owned()).expect("read"), None);
    let stamped = store.get(&BY_POSITION, &(1, Position(3))).expect("read").expect("row");
    assert_eq!(stamped, Stamped { position: Position(3), value: "stamped".to_owned() });
    assert_eq!(store.domain_version(&named("x")).expect("read"), Position(3));
    assert_eq!(block_on(store.commit(set("after", "x"))).expect("commit"), Position(4));
}

pub fn an_engine_that_lost_its_memory_holds_whole_batches(fixture: &Fixture<'_>) {
    let engine = fixture.engine();
    let log = Log::open(engine.clone(), &fixture.log_dir(), Durability::Os).expect("log opens");
    let crashed = fixture.dir.join("crashed");
    for number in 0..40_u64 {
        let mut batch = Batch::new();
        batch.put(&PAIRS, &("left".to_owned(), number), &number);
        batch.put(&PAIRS, &("right".to_owned(), number), &number);
        drop(log.enqueue(batch).expect("enqueue"));
        if number == 20 {
            engine.flush().expect("flush");
        }
    }
    copy_directory(&fixture.dir.join("db"), &crashed);
    let engine = (fixture.open)(&crashed);
    let applied = engine
        .get(&APPLIED.key(&()).bytes)
        .expect("get")
        .map_or(Position::ZERO, |row| Position::decode(&row).expect("position"));
    for number in 0..40_u64 {
        for side in ["left", "right"] {
            let row = engine.get(&PAIRS.key(&(side.to_owned(), number)).bytes).expect("get");
            assert_eq!(row.is_some(), number < applied.0, "{side} {number}, applied up to {applied}");
        }
    }
}

pub fn a_second_open_is_refused(fixture: &Fixture<'_>) {
    let store = fixture.store();
    let second = Log::open(Arc::new(crate::MemoryEngine::new()), &fixture.log_dir(), Durability::Fsync);
    let error = second.err().expect("the log is in use");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
    store.close().expect("close");
    drop(
        Log::open(Arc::new(crate::MemoryEngine::new()), &fixture.log_dir(), Durability::Fsync)
            .expect("free after closing"),
    );
}

/// Copies a directory of files, if it is there (an engine in memory has none).
fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("directory");
    let Ok(entries) = std::fs::read_dir(from) else { return };
    for entry in entries {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copy");
    }
}
