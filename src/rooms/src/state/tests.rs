//! The trees against a plain map.

use std::collections::{BTreeMap, HashSet};

use chappe_store::{Direction, tables::state::STATE_NODES};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::*;

const ROOM: RoomNid = RoomNid(7);

type Model = BTreeMap<StateKeyNid, EventNid>;

fn trees() -> (Store, StateTrees) {
    let store = Store::in_memory();
    (store.clone(), StateTrees::new(store, 1000))
}

fn changes(rng: &mut StdRng, keys: u64, count: usize, removals: f64) -> Vec<(StateKeyNid, Option<EventNid>)> {
    (0..count)
        .map(|_| {
            let event = (!rng.random_bool(removals)).then(|| EventNid(rng.random_range(1..1000)));
            (StateKeyNid(rng.random_range(0..keys)), event)
        })
        .collect()
}

fn apply_to_model(model: &mut Model, changes: &[(StateKeyNid, Option<EventNid>)]) {
    for (key, event) in changes {
        match event {
            Some(event) => model.insert(*key, *event),
            None => model.remove(key),
        };
    }
}

fn assert_matches(trees: &StateTrees, root: StateRoot, model: &Model, keys: u64) {
    let entries = trees.entries(ROOM, root).unwrap();
    assert_eq!(entries.len(), model.len());
    assert_eq!(trees.len(ROOM, root).unwrap(), model.len());
    assert_eq!(entries.into_iter().collect::<Model>(), *model);
    for key in (0..keys).map(StateKeyNid) {
        assert_eq!(trees.get(ROOM, root, key).unwrap(), model.get(&key).copied());
    }
}

fn model_diff(a: &Model, b: &Model) -> BTreeMap<StateKeyNid, (Option<EventNid>, Option<EventNid>)> {
    let keys: HashSet<StateKeyNid> = a.keys().chain(b.keys()).copied().collect();
    keys.into_iter()
        .map(|key| (key, (a.get(&key).copied(), b.get(&key).copied())))
        .filter(|(_, (old, new))| old != new)
        .collect()
}

#[tokio::test]
async fn random_updates_agree_with_a_map_and_with_building_anew() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (store, trees) = trees();
        let keys = *[3, 16, 17, 40, 300, 3000].get(seed as usize % 6).unwrap();
        let mut states = vec![(EMPTY, Model::new())];
        for step in 0..25 {
            let (root, mut model) = states.last().cloned().unwrap();
            let count = rng.random_range(0..=(keys as usize / 3 + 2));
            let changes = changes(&mut rng, keys, count, if step % 5 == 4 { 0.9 } else { 0.3 });
            apply_to_model(&mut model, &changes);
            let mut batch = Batch::new();
            let root = trees.update(&mut batch, ROOM, root, changes).unwrap();
            store.commit(batch).await.unwrap();
            assert_matches(&trees, root, &model, keys.min(400));

            let mut shuffled: Vec<_> = model.iter().map(|(key, event)| (*key, *event)).collect();
            shuffled.shuffle(&mut rng);
            assert_eq!(trees.begin(ROOM).build(shuffled).unwrap(), root, "seed {seed}: the root depends on history");
            states.push((root, model));
        }
        for _ in 0..40 {
            let (a, b) = (rng.random_range(0..states.len()), rng.random_range(0..states.len()));
            let ((a, model_a), (b, model_b)) = (&states[a], &states[b]);
            let found = trees.diff(ROOM, *a, *b).unwrap();
            let by_key: BTreeMap<_, _> = found.iter().map(|change| (change.key, (change.old, change.new))).collect();
            assert_eq!(by_key.len(), found.len());
            assert_eq!(by_key, model_diff(model_a, model_b));
        }
    }
}

#[tokio::test]
async fn insertion_one_by_one_in_any_order_gives_one_root() {
    let mut rng = StdRng::seed_from_u64(1);
    let (_, trees) = trees();
    let mut entries: Vec<_> = (0..200).map(|n| (StateKeyNid(n), EventNid(n + 1))).collect();
    let mut roots = HashSet::new();
    for _ in 0..5 {
        entries.shuffle(&mut rng);
        let mut nodes = trees.begin(ROOM);
        let mut root = EMPTY;
        for (key, event) in &entries {
            root = nodes.update(root, [(*key, Some(*event))]).unwrap();
        }
        roots.insert(root);
    }
    assert_eq!(roots.len(), 1);
}

#[tokio::test]
async fn removing_everything_gives_the_empty_root() {
    let (_, trees) = trees();
    let mut nodes = trees.begin(ROOM);
    let root = nodes.build((0..500).map(|n| (StateKeyNid(n), EventNid(n)))).unwrap();
    assert_ne!(root, EMPTY);
    assert_eq!(nodes.update(root, (0..500).map(|n| (StateKeyNid(n), None))).unwrap(), EMPTY);
    let few = nodes.update(root, (16..500).map(|n| (StateKeyNid(n), None))).unwrap();
    assert_eq!(few, nodes.build((0..16).map(|n| (StateKeyNid(n), EventNid(n)))).unwrap());
}

#[tokio::test]
async fn one_change_in_a_large_state_writes_few_nodes() {
    let (store, trees) = trees();
    let mut batch = Batch::new();
    let root = trees.build(&mut batch, ROOM, (0..50_000).map(|n| (StateKeyNid(n), EventNid(n)))).unwrap();
    store.commit(batch).await.unwrap();
    let count = || store.scan(&STATE_NODES, &ROOM, Direction::Forward).count();
    let before = count();
    let mut batch = Batch::new();
    let changed = trees.update(&mut batch, ROOM, root, [(StateKeyNid(123), Some(EventNid(99_999)))]).unwrap();
    store.commit(batch).await.unwrap();
    assert!(count() - before <= 5, "{} nodes for one change", count() - before);
    assert_eq!(
        trees.diff(ROOM, root, changed).unwrap(),
        [StateChange { key: StateKeyNid(123), old: Some(EventNid(123)), new: Some(EventNid(99_999)) }]
    );
}

#[tokio::test]
async fn update_that_changes_nothing_writes_nothing() {
    let (store, trees) = trees();
    let mut batch = Batch::new();
    let root = trees.build(&mut batch, ROOM, (0..100).map(|n| (StateKeyNid(n), EventNid(n)))).unwrap();
    store.commit(batch).await.unwrap();
    let mut batch = Batch::new();
    let same = [(StateKeyNid(5), Some(EventNid(5))), (StateKeyNid(1000), None)];
    assert_eq!(trees.update(&mut batch, ROOM, root, same).unwrap(), root);
    assert!(batch.is_empty());
}

#[tokio::test]
async fn nodes_of_a_dropped_batch_are_written_again() {
    let (store, trees) = trees();
    let entries = || (0..100).map(|n| (StateKeyNid(n), EventNid(n)));
    let mut dropped = Batch::new();
    let root = trees.build(&mut dropped, ROOM, entries()).unwrap();
    drop(dropped);
    assert!(trees.entries(ROOM, root).is_err());
    let mut batch = Batch::new();
    assert_eq!(trees.build(&mut batch, ROOM, entries()).unwrap(), root);
    store.commit(batch).await.unwrap();
    assert_eq!(trees.entries(ROOM, root).unwrap().len(), 100);
}

#[tokio::test]
async fn updates_of_one_batch_see_each_other() {
    let (store, trees) = trees();
    let mut nodes = trees.begin(ROOM);
    let first = nodes.build((0..50).map(|n| (StateKeyNid(n), EventNid(n)))).unwrap();
    let second = nodes.update(first, [(StateKeyNid(3), Some(EventNid(77))), (StateKeyNid(4), None)]).unwrap();
    assert_eq!(nodes.get(second, StateKeyNid(3)).unwrap(), Some(EventNid(77)));
    assert_eq!(nodes.len(second).unwrap(), 49);
    assert_eq!(nodes.diff(first, second).unwrap().len(), 2);
    let mut batch = Batch::new();
    nodes.put_into(&mut batch);
    store.commit(batch).await.unwrap();
    assert_eq!(trees.get(ROOM, first, StateKeyNid(4)).unwrap(), Some(EventNid(4)));
    assert_eq!(trees.get(ROOM, second, StateKeyNid(4)).unwrap(), None);
}

#[tokio::test]
async fn a_missing_or_damaged_node_is_an_error_not_an_empty_state() {
    let (store, trees) = trees();
    assert!(trees.get(ROOM, [9; 16], StateKeyNid(1)).is_err());
    let mut batch = Batch::new();
    batch.put(&STATE_NODES, &(ROOM, [9; 16]), &vec![1, 2, 3]);
    store.commit(batch).await.unwrap();
    assert!(trees.get(ROOM, [9; 16], StateKeyNid(1)).is_err());
    // A branch that is its own child, as no honest writer can make it.
    let mut circle = vec![2, 0, 0, 0, 0, 0, 0, 0, 99, 0xff, 0xff];
    circle.extend([9; 16].repeat(16));
    let mut batch = Batch::new();
    batch.put(&STATE_NODES, &(ROOM, [9; 16]), &circle);
    store.commit(batch).await.unwrap();
    assert!(trees.get(ROOM, [9; 16], StateKeyNid(1)).is_err());
}
