//! Room state as persistent, content-addressed trees.
//!
//! The state at an event is one [`StateRoot`]. A tree is immutable: [`StateTrees::update`] writes the nodes that differ and
//! answers a new root, and everything else is shared. Equal states have equal roots, whatever the order they were built in, so
//! comparing two roots compares two states, and [`StateTrees::diff`] costs only what differs.
//!
//! # New nodes, and when they can be read
//! New nodes live in a [`TreeBatch`] until they are put into a store batch, and can be read from the store once that batch is
//! enqueued. The cache is filled by reads from the store and, once a batch is enqueued, by [`StateTrees::keep`]; it is never asked
//! whether a node needs writing: each node that an update makes is written. So a batch that is dropped leaves nothing behind that
//! could later be taken for stored. The price is that a base root must be stored already, or come from the same [`TreeBatch`]; several
//! updates on top of each other in one batch therefore go through one [`TreeBatch`].
//!
//! This module does not know what is in a state, and never deletes: a room's nodes go with the room. Start reading at
//! [`tree`] for the canonical form.

mod diff;
mod tree;

use std::{collections::HashMap, sync::Arc};

use chappe_store::{Batch, DecodeError, EventNid, RoomNid, StateKeyNid, Store, StoreError, tables::state::STATE_NODES};
use foldhash::fast::RandomState;
use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};

pub use self::diff::StateChange;
pub(crate) use self::tree::NodeParts;
use self::tree::{Node, NodeSource};

/// A whole room state: the hash of its tree's root node.
pub type StateRoot = [u8; 16];

/// The root of the state that has no entries.
pub const EMPTY: StateRoot = [0; 16];

/// Nobody outside chooses what nodes hash to, so that a fast hash of that will do.
type NodeCache = Cache<(RoomNid, StateRoot), Arc<Node>, UnitWeighter, RandomState>;

/// Every room's state trees. A cheap handle: clones share the cache.
#[derive(Clone)]
pub struct StateTrees {
    store: Store,
    cache: Arc<NodeCache>,
}

impl StateTrees {
    /// Keeps at most `cache_nodes` nodes (each has up to 16 entries, or 16 children) in memory.
    pub fn new(store: Store, cache_nodes: usize) -> Self {
        let (hasher, lifecycle) = (RandomState::default(), DefaultLifecycle::default());
        let capacity = cache_nodes.try_into().unwrap_or(u64::MAX);
        Self { store, cache: Arc::new(Cache::with(cache_nodes, capacity, UnitWeighter, hasher, lifecycle)) }
    }

    /// The event at a key.
    pub fn get(&self, room: RoomNid, root: StateRoot, key: StateKeyNid) -> Result<Option<EventNid>, StoreError> {
        tree::get(&Stored { trees: self, room }, root, key)
    }

    /// How many entries the state has.
    pub fn len(&self, room: RoomNid, root: StateRoot) -> Result<usize, StoreError> {
        tree::len(&Stored { trees: self, room }, root)
    }

    /// Every entry, in no order that means anything, but the same for the same state.
    pub fn entries(&self, room: RoomNid, root: StateRoot) -> Result<Vec<(StateKeyNid, EventNid)>, StoreError> {
        tree::entries(&Stored { trees: self, room }, root)
    }

    /// What changes from state `a` to state `b`, by key.
    pub fn diff(&self, room: RoomNid, a: StateRoot, b: StateRoot) -> Result<Vec<StateChange>, StoreError> {
        diff::diff(&Stored { trees: self, room }, a, b)
    }

    /// Sets (`Some`) or removes (`None`) entries of a stored state and answers the new state's root, readable once `batch` is
    /// enqueued. For several updates in one batch use [`StateTrees::begin`].
    pub fn update(
        &self,
        batch: &mut Batch,
        room: RoomNid,
        root: StateRoot,
        changes: impl IntoIterator<Item = (StateKeyNid, Option<EventNid>)>,
    ) -> Result<StateRoot, StoreError> {
        let mut nodes = self.begin(room);
        let root = nodes.update(root, changes)?;
        nodes.put_into(batch);
        Ok(root)
    }

    /// The root of a state with these entries, readable once `batch` is enqueued. Of entries with the same key the last counts.
    pub fn build(
        &self,
        batch: &mut Batch,
        room: RoomNid,
        entries: impl IntoIterator<Item = (StateKeyNid, EventNid)>,
    ) -> Result<StateRoot, StoreError> {
        self.update(batch, room, EMPTY, entries.into_iter().map(|(key, event)| (key, Some(event))))
    }

    /// Starts collecting new nodes for one batch.
    pub fn begin(&self, room: RoomNid) -> TreeBatch {
        TreeBatch { trees: self.clone(), room, fresh: HashMap::new() }
    }

    /// Keeps nodes in memory: to be called with those of a batch that was enqueued.
    pub(crate) fn keep(&self, nodes: NewNodes) {
        for (hash, node) in nodes.nodes {
            self.cache.insert((nodes.room, hash), node);
        }
    }

    fn load(&self, room: RoomNid, hash: StateRoot) -> Result<Arc<Node>, StoreError> {
        if let Some(node) = self.cache.get(&(room, hash)) {
            return Ok(node);
        }
        let damaged = |cause| StoreError::Decode { table: STATE_NODES.name, cause };
        let bytes = self
            .store
            .get(&STATE_NODES, &(room, hash))?
            .ok_or_else(|| damaged(DecodeError::new("a node of a state tree is missing")))?;
        let node = Arc::new(Node::decode(&bytes).map_err(damaged)?);
        self.cache.insert((room, hash), node.clone());
        Ok(node)
    }
}

/// The new nodes of one batch, and a view of the room's trees that has them.
///
/// Dropped without [`put_into`](Self::put_into) it leaves no trace.
#[must_use = "new nodes are lost unless they are put into a batch"]
pub struct TreeBatch {
    trees: StateTrees,
    room: RoomNid,
    fresh: HashMap<StateRoot, Arc<Node>>,
}

impl TreeBatch {
    pub fn room(&self) -> RoomNid {
        self.room
    }

    /// As [`StateTrees::get`], for stored roots and for this batch's.
    pub fn get(&self, root: StateRoot, key: StateKeyNid) -> Result<Option<EventNid>, StoreError> {
        tree::get(self, root, key)
    }

    /// As [`StateTrees::len`], for stored roots and for this batch's.
    pub fn len(&self, root: StateRoot) -> Result<usize, StoreError> {
        tree::len(self, root)
    }

    /// As [`StateTrees::entries`], for stored roots and for this batch's.
    pub fn entries(&self, root: StateRoot) -> Result<Vec<(StateKeyNid, EventNid)>, StoreError> {
        tree::entries(self, root)
    }

    /// As [`StateTrees::diff`], for stored roots and for this batch's.
    pub fn diff(&self, a: StateRoot, b: StateRoot) -> Result<Vec<StateChange>, StoreError> {
        diff::diff(self, a, b)
    }

    /// Sets (`Some`) or removes (`None`) entries of a state and answers the new state's root. Of changes to the same key the
    /// last counts. The base is a stored root or one of this batch's.
    pub fn update(
        &mut self,
        root: StateRoot,
        changes: impl IntoIterator<Item = (StateKeyNid, Option<EventNid>)>,
    ) -> Result<StateRoot, StoreError> {
        let updated = tree::update(self, root, changes)?;
        self.fresh.extend(updated.fresh);
        Ok(updated.root)
    }

    /// The root of a state with these entries. Of entries with the same key the last counts.
    pub fn build(
        &mut self,
        entries: impl IntoIterator<Item = (StateKeyNid, EventNid)>,
    ) -> Result<StateRoot, StoreError> {
        self.update(EMPTY, entries.into_iter().map(|(key, event)| (key, Some(event))))
    }

    /// The new nodes in several batches of at most `nodes_max` nodes. None depends on another: they are named by what they hold.
    pub fn into_batches(self, nodes_max: usize) -> Vec<Batch> {
        let nodes: Vec<_> = self.fresh.into_iter().collect();
        let pieces = nodes.chunks(nodes_max.max(1)).map(|piece| {
            let mut batch = Batch::new();
            for (hash, node) in piece {
                batch.put(&STATE_NODES, &(self.room, *hash), &node.encode());
            }
            batch
        });
        pieces.collect()
    }

    /// Writes the new nodes, and answers them for [`StateTrees::keep`].
    pub fn put_into(self, batch: &mut Batch) -> NewNodes {
        for (hash, node) in &self.fresh {
            batch.put(&STATE_NODES, &(self.room, *hash), &node.encode());
        }
        NewNodes { room: self.room, nodes: self.fresh }
    }
}

/// The nodes that a batch wrote.
pub struct NewNodes {
    room: RoomNid,
    nodes: HashMap<StateRoot, Arc<Node>>,
}

impl NodeSource for TreeBatch {
    fn load(&self, hash: StateRoot) -> Result<Arc<Node>, StoreError> {
        match self.fresh.get(&hash) {
            Some(node) => Ok(node.clone()),
            None => self.trees.load(self.room, hash),
        }
    }
}

struct Stored<'a> {
    trees: &'a StateTrees,
    room: RoomNid,
}

impl NodeSource for Stored<'_> {
    fn load(&self, hash: StateRoot) -> Result<Arc<Node>, StoreError> {
        self.trees.load(self.room, hash)
    }
}

#[cfg(test)]
mod tests;
